"""A candidate that does not run has failed already, and that is said; a damaged taps file is another matter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any

import numpy as np
import pytest

from dsr_export.config import BatchRange
from dsr_export.errors import ExportError, RunnerError
from dsr_export.parity.tolerances import TOLERANCES
from dsr_export.sites import reference, search
from dsr_export.sites.tap_file import GRAPH, ReferenceTap, Taps
from dsr_export.storage.npz_file import read_npz
from graphs.artifacts import TensorSpec
from graphs.observe.sites import Site
from graphs.observe.tap_samples import Sample

INPUTS = (TensorSpec(name="x", dtype="float32", shape=("batch", 2)),)
BATCH = BatchRange(1, 2, 4)
Edit = Callable[[dict[str, Any]], Any]


class Failing:
    """A runner that opens, and then fails in every call with `error`."""

    name = "failing"

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __enter__(self) -> Failing:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, t: TracebackType | None) -> None:
        pass

    def infer(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        raise self.error


@pytest.fixture
def taps(rng: np.random.Generator, tmp_path: Path) -> Path:
    site = Site(tensor="h", module="head", group="head", shape=(5,), outer=True)
    sample = Sample.of(rng.standard_normal((3, 5)).astype(np.float32), 40)
    path = tmp_path / "taps.npz"
    Taps({"x": rng.standard_normal((3, 2)).astype(np.float32)}, [ReferenceTap(site, sample, GRAPH)]).save(path)
    return path


def _searched(taps: Path, edit: Edit = lambda arrays: None) -> dict[str, Any]:
    """`search_sites` on a bundle that failed, whose taps were changed by `edit`."""
    arrays = read_npz(taps)
    edit(arrays)
    manifest = SimpleNamespace(
        files={"taps.npz": None},
        inputs=INPUTS,
        precision="fp32",
        batch=BATCH,
        dsr={},
        tolerances=TOLERANCES["fp32"].as_dict(),
    )
    bundle: Any = SimpleNamespace(
        manifest=manifest, path=taps.parent, taps=lambda: arrays, file=taps.with_name, report=dict
    )
    return search.search_sites(bundle, failed=True)


def _checked(taps: Path) -> dict[str, Any]:
    """`check_sites` of a build that failed."""
    card: Any = SimpleNamespace(inputs=INPUTS, dsr={})
    return reference.check_sites(taps, taps.with_name("model.onnx"), card, "fp32", BATCH, passed=False)


def _opens(monkeypatch: pytest.MonkeyPatch, error: Exception, *, late: bool) -> None:
    """The candidate fails with `error` when it is opened or, `late`, when it is called."""

    def opened(*_: Any) -> tuple[Any, Any]:
        if not late:
            raise error
        return Failing(error), SimpleNamespace(outputs={}, lost={})

    for module in (search, reference):
        monkeypatch.setattr(module, "tapped_runner", opened)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("asked", [_searched, _checked])
def test_a_failing_runtime_is_a_finding(
    taps: Path, asked: Callable[[Path], Any], late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    _opens(monkeypatch, RunnerError("no kernel for Where"), late=late)
    made = asked(taps)
    assert made.get("bisection", made) == {"site": None, "problem": "no kernel for Where"}


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("asked", [_searched, _checked])
def test_any_other_error_is_none(
    taps: Path, asked: Callable[[Path], Any], late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    _opens(monkeypatch, ExportError("model.onnx is damaged"), late=late)
    with pytest.raises(ExportError, match=r"model\.onnx is damaged"):
        asked(taps)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda arrays: arrays.pop("norms"), "lacks the array 'norms'"),
        (lambda arrays: arrays.update(values=arrays["values"][:-1]), "'values' does not fit"),
        (lambda arrays: arrays.update({"in/x": arrays["in/x"][:, :1]}), "input 'x' has shape"),
        (lambda arrays: arrays.update({"in/x": arrays["in/x"].astype(np.float64)}), "input 'x' is float64"),
        (lambda arrays: arrays.update({"in/y": arrays["in/x"]}), "there is no input 'y'"),
    ],
)
def test_damaged_taps_are_refused_by_name(taps: Path, edit: Edit, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _opens(monkeypatch, RunnerError("never reached"), late=False)
    with pytest.raises(ExportError, match=rf"taps\.npz.*{said}") as caught:
        _searched(taps, edit)
    assert not isinstance(caught.value, RunnerError) and caught.value.hint


def test_a_truncated_taps_file_is_refused_by_a_build(taps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _opens(monkeypatch, RunnerError("never reached"), late=False)
    taps.write_bytes(taps.read_bytes()[:-40])
    with pytest.raises(ExportError, match=r"taps\.npz"):
        _checked(taps)
