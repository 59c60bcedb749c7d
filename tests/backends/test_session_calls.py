"""CUDA graphs of ONNX Runtime's sessions, on a stand-in. On a real GPU: the tests marked `gpu`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsr_export.backends.cuda.replay import OTHER_NUMBERS
from dsr_export.backends.onnxruntime_cuda import OnnxRuntimeCudaRunner, cuda_problem
from dsr_export.backends.session_calls import IN_STREAM, SessionCalls
from tests.backends import tiny_models
from tests.backends.cuda_stand_in import CudaStandIn, stand_in

WIDTH = 16


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[CudaStandIn]:
    yield stand_in(monkeypatch)
    cuda_problem.cache_clear()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_models.linear(tmp_path, width=WIDTH)


def opened(model: Path, said: list[str], **options: Any) -> OnnxRuntimeCudaRunner:
    return OnnxRuntimeCudaRunner(model, inputs=tiny_models.specs(model), say=said.append, **options)


def called(provider: CudaStandIn, runner: OnnxRuntimeCudaRunner, count: int, start: float) -> list[int]:
    """The graphs of one call, whose numbers are those of a session without any."""
    x = np.linspace(start, start + 1, count * WIDTH, dtype=np.float32).reshape(count, WIDTH)
    wanted = runner._session.run(None, {"x": x})[0]
    before = len(provider.graphs)
    np.testing.assert_array_equal(runner.infer({"x": x})["y"], wanted)
    return provider.graphs[before:]


def test_a_shape_is_captured_once_and_then_launched_alone(provider: CudaStandIn, model: Path) -> None:
    with opened(model, [], graphs="always") as runner:
        assert called(provider, runner, 2, 0) == [IN_STREAM]
        assert called(provider, runner, 2, 1) == [IN_STREAM, 1, 1]  # the call, its graph, and the proof
        assert [called(provider, runner, 2, i) for i in range(3)] == [[1]] * 3
        assert [called(provider, runner, 3, i)[-1] for i in range(3)] == [IN_STREAM, 2, 2]
        assert called(provider, runner, 2, 5) == [IN_STREAM]
        assert called(provider, runner, 2, 6) == [IN_STREAM, 1]  # proved again, and not captured
    assert runner.replays.of == {}


def test_a_graph_that_is_no_faster_is_not_used(
    provider: CudaStandIn, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([1.0, 2.0] * 5)

    def milliseconds(calls: SessionCalls, work: Any) -> float:
        work()
        return next(times)

    monkeypatch.setattr(SessionCalls, "milliseconds", milliseconds)
    said: list[str] = []
    with opened(model, said) as runner:
        for i in range(4):
            last = called(provider, runner, 2, i)
    assert last == [IN_STREAM]
    assert said == ["no CUDA graph is used: it takes 2.000 ms, and 1.000 ms in the stream"]


def test_a_graph_that_computes_something_else_is_not_used(provider: CudaStandIn, model: Path) -> None:
    provider.forgetful = True
    said: list[str] = []
    with opened(model, said, graphs="always") as runner:
        for i in range(4):
            last = called(provider, runner, 2, i)
    assert last == [IN_STREAM] and said == [f"no CUDA graph is used: {OTHER_NUMBERS}"]


def test_a_model_that_cannot_be_captured_runs_without(provider: CudaStandIn, model: Path) -> None:
    provider.uncapturable = True
    said: list[str] = []
    with opened(model, said) as runner:
        assert [called(provider, runner, 2, i) for i in range(3)] == [[IN_STREAM]] * 3
        (state,) = runner.replays.of.values()
        assert state.problem is not None and "cannot use the graph capture feature" in state.problem
    assert said == [f"no CUDA graph is used: {state.problem}"]


def test_results_are_the_callers_own(provider: CudaStandIn, model: Path) -> None:
    """Neither the graph's buffers, nor memory that a later call writes."""
    x = np.ones((2, WIDTH), np.float32)
    with opened(model, [], graphs="always") as runner:
        kept = [runner.infer_on_device({"x": x * i})["y"] for i in range(5)]
        wanted = [runner._session.run(None, {"x": x * i})[0] for i in range(5)]
        for made, expected in zip(kept, wanted, strict=True):
            np.testing.assert_array_equal(made.numpy(), expected)
    assert len({each.pointer for each in kept}) == 5
