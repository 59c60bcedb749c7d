"""Batches in between, batches against single images, and the same batch twice: each check fails on its own fault."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

import numpy as np
import pytest

from dsr_export.errors import ExportError, RunnerError
from dsr_export.parity.checks.batches import sizes_between
from dsr_export.parity.checks.table import ParityReport, check_parity, fused_rows
from dsr_export.parity.golden.vectors import Case, Golden
from dsr_export.parity.tolerances import TOLERANCES

Call = Callable[[np.ndarray, int], np.ndarray]


class Fake:
    """A candidate that makes `call(x, number of the call)`."""

    def __init__(self, call: Call, name: str = "onnxruntime") -> None:
        self.name, self._call, self._count = name, call, 0

    def __enter__(self) -> Fake:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def infer(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self._count += 1
        return {"out": self._call(inputs["x"], self._count).astype(np.float32)}


def _golden(*sizes: int) -> Golden:
    rows = np.stack([np.random.default_rng(i).standard_normal(400) for i in range(max(sizes))]).astype(np.float32)
    return Golden({size: Case({"x": rows[:size]}, {"out": 2 * rows[:size]}) for size in sizes}, None)


def _checked(call: Call, *sizes: int, name: str = "onnxruntime") -> ParityReport:
    return check_parity(Fake(call, name), _golden(*sizes or (1, 2, 8)), None, TOLERANCES["fp16"], lambda _, __: None)


def _failed(report: ParityReport) -> set[str]:
    return {row.check for row in report.rows if not row.passed}


@pytest.mark.parametrize(
    ("sizes", "between"), [((1, 2, 8), [4, 6]), ((1, 2, 4), [3]), ((4,), []), ((1, 2), []), ((2, 9), [5, 7])]
)
def test_sizes_in_between_are_new_and_inside(sizes: tuple[int, ...], between: list[int]) -> None:
    assert sizes_between(_golden(*sizes)) == between


def test_a_sound_candidate_passes_every_check() -> None:
    report = _checked(lambda x, _: 2 * x)
    checks = {row.check for row in report.rows}
    between = {"batch-4", "batch-6", "rows", "determinism", "batch-invariance"}
    assert report.passed and checks == {"batch-1", "batch-2", "batch-8"} | between


@pytest.mark.parametrize(("factor", "passes"), [(2.0, True), (2.1, False)])
def test_the_kernels_that_users_get_are_held_to_the_same(factor: float, passes: bool) -> None:
    plain, fused = Fake(lambda x, _: 2 * x), Fake(lambda x, _: factor * x)
    rows = fused_rows(lambda: fused, _golden(1, 2), "onnxruntime", TOLERANCES["fp16"])
    report = check_parity(plain, _golden(1, 2), None, TOLERANCES["fp16"], lambda _, __: None, fused=rows)
    assert _failed(report) == (set() if passes else {"fused"})


def test_kernels_that_do_not_open_are_a_failed_check_with_its_reason() -> None:
    def refuse() -> Fake:
        raise RunnerError("no kernel for Where")

    (row,) = fused_rows(refuse, _golden(1, 2), "onnxruntime", TOLERANCES["fp16"])
    assert not row.passed and row.comparison.problem == "no kernel for Where"
    assert fused_rows(lambda: None, _golden(1), "onnxruntime", TOLERANCES["fp16"]) == []


def test_a_fixed_batch_has_nothing_in_between() -> None:
    report = _checked(lambda x, _: 2 * x, 4)
    assert report.passed and {row.check for row in report.rows} == {"batch-4", "rows", "determinism"}


def test_a_size_that_is_never_tuned_for_is_tried() -> None:
    assert _failed(_checked(lambda x, _: 2 * x * (1.1 if len(x) == 6 else 1.0))) == {"batch-6"}


def test_images_that_leak_into_each_other_are_found() -> None:
    """A mean over the batch, 50 dB below the signal: within the tolerance of FP16, and no rounding."""
    leak = lambda x, _: 2 * x + 3e-3 * x.mean(axis=0, keepdims=True) * np.sqrt(len(x))  # noqa: E731
    assert _failed(_checked(leak)) == {"batch-invariance"}


def test_an_engine_may_round_each_batch_its_own_way() -> None:
    noise = lambda x, _: 2 * x + 2e-3 * np.random.default_rng(len(x)).standard_normal(400)  # noqa: E731
    assert _failed(_checked(noise)) == {"batch-invariance"}
    assert _failed(_checked(noise, name="tensorrt_rtx")) == set()


def test_a_run_that_differs_from_the_one_before_is_shown() -> None:
    report = _checked(lambda x, call: 2 * x * (1 + 0.005 * (call > 5)))
    assert "determinism" in _failed(report)
    (row,) = [row for row in report.rows if row.check == "determinism"]
    assert row.comparison.snr_db == pytest.approx(46, abs=1)


def test_nan_in_one_size_alone_fails_there() -> None:
    report = _checked(lambda x, _: 2 * x * (np.nan if len(x) == 4 else 1))
    (bad,) = [row for row in report.rows if not row.passed]
    assert bad.check == "batch-4" and "NaN" in str(bad.comparison.problem)


def test_inputs_that_do_not_fit_are_no_failed_check() -> None:
    def call(x: np.ndarray, _: int) -> np.ndarray:
        raise ExportError("input 'x' is missing")

    with pytest.raises(ExportError, match="'x' is missing"):
        _checked(call)


def test_a_runtime_that_fails_is_a_failed_check_with_its_reason() -> None:
    def call(x: np.ndarray, _: int) -> np.ndarray:
        if len(x) == 6:
            raise RunnerError("out of memory")
        return 2 * x

    (bad,) = [row for row in _checked(call).rows if not row.passed]
    assert (bad.check, bad.comparison.problem) == ("batch-6", "out of memory")
