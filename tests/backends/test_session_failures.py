"""A failure at each call of ONNX Runtime's on a GPU in turn: it is said, and nothing of the GPU's memory is kept."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from dsr_export.backends import session_calls
from dsr_export.backends.cuda import replay
from dsr_export.backends.onnxruntime_cuda import OnnxRuntimeCudaRunner, cuda_problem
from dsr_export.errors import RunnerError
from tests.backends import tiny_models
from tests.backends.cuda_stand_in import stand_in

WIDTH = 4
OF_VALUES = ("ortvalue_from_numpy", "ortvalue_from_shape_and_type")
OF_BINDINGS = ("bind_input", "bind_output", "bind_ortvalue_input", "bind_ortvalue_output", "get_outputs")


class Calls:
    """Calls of ONNX Runtime that were made; the one of number `at` raises. `alive` are its tensors and sessions."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.made: list[str] = []
        self.at: int | None = None
        self.alive: weakref.WeakSet[Any] = weakref.WeakSet()
        value, binding, session = onnxruntime.OrtValue, onnxruntime.IOBinding, onnxruntime.InferenceSession
        for name in OF_VALUES:
            patch.setattr(value, name, staticmethod(self.counted(name, getattr(value, name))))
        for kind, names in ((value, ("numpy", "update_inplace")), (binding, OF_BINDINGS)):
            for name in names:
                patch.setattr(kind, name, self.counted(name, getattr(kind, name)))
        for name in ("__init__", "io_binding", "run_with_iobinding", "get_provider_graph_assignment_info"):
            patch.setattr(session, name, self.counted(name, getattr(session, name)))
        patch.setattr(session_calls, "copy_within", self.counted("copy_within", session_calls.copy_within))

    def counted(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*arguments: Any, **named: Any) -> Any:
            self.made.append(name)
            if self.at == len(self.made) - 1:
                raise RuntimeError("CUDA failure 719: unspecified launch failure")
            made = call(*arguments, **named)
            if name == "__init__":
                self.alive.add(arguments[0])
            for each in made if isinstance(made, list) else [made]:
                if isinstance(each, onnxruntime.OrtValue):
                    self.alive.add(each)
            return made

        return counting


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[Calls]:
    stand_in(monkeypatch)
    monkeypatch.setattr(replay, "RACES", 1)
    yield Calls(monkeypatch)
    cuda_problem.cache_clear()


def rows(count: int) -> dict[str, np.ndarray]:
    return {"x": np.linspace(-1, 1, count * WIDTH, dtype=np.float32).reshape(count, WIDTH)}


def session(model: Path, said: list[str]) -> Iterator[np.ndarray]:
    """All that a runner does: shapes that are left and come back, on the host and on the device, captured and not."""
    with OnnxRuntimeCudaRunner(model, inputs=tiny_models.specs(model), say=said.append) as runner:
        for count in (2, 2, 2, 3, 2, 2):
            yield runner.infer(rows(count))["y"]
        held = {name: runner.upload(array) for name, array in rows(3).items()}
        for _ in range(3):
            yield runner.infer_on_device(held)["y"].numpy()


def ended(model: Path, wanted: dict[int, np.ndarray] | None) -> str | None:
    """What is said of what ended the session; whatever it gave before that was right."""
    try:
        for made in session(model, []):
            if wanted is not None:
                np.testing.assert_array_equal(made, wanted[len(made)])
    except RunnerError as error:
        return error.message
    return None


def test_each_failure_is_said_and_gives_everything_back(calls: Calls, tmp_path: Path) -> None:
    model = tiny_models.linear(tmp_path, width=WIDTH)
    wanted = {len(made): made for made in session(model, [])}
    calls.made.clear()
    assert ended(model, wanted) is None
    names, told = calls.made[:], dict[str, set[bool]]()
    for at, name in enumerate(names):
        calls.made.clear()
        calls.at = at
        error = ended(model, wanted)
        assert error is None or "CUDA failure 719" in error, (at, name, error)
        told.setdefault(name, set()).add(error is None)
        gc.collect(0)
        assert list(calls.alive) == [], (at, name)
    assert told["__init__"] == {True}  # the session that captures, in whose place one without graphs is opened
    assert told["get_provider_graph_assignment_info"] == told["bind_input"] == told["ortvalue_from_numpy"] == {False}
    assert told["run_with_iobinding"] == {False, True}  # one of a graph costs that alone


def test_a_closed_runner_keeps_nothing_though_it_is_kept(calls: Calls, tmp_path: Path) -> None:
    model = tiny_models.linear(tmp_path, width=WIDTH)
    with OnnxRuntimeCudaRunner(model, inputs=tiny_models.specs(model), graphs="always") as runner:
        for _ in range(3):
            runner.infer(rows(2))
        assert list(calls.alive)
    assert list(calls.alive) == [] and runner.on_cpu == ()
