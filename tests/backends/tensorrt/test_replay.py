"""CUDA graphs: captured once for each shape, used where they are faster and right, and never otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dsr_export.backends.tensorrt.runner import TensorRTRunner
from dsr_export.errors import RunnerError
from tests.backends.tensorrt.engine_stand_in import SPECS, Context, Gpu, stand_in
from tests.backends.tensorrt.test_runner import check, rows


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    return stand_in(monkeypatch)


def opened(said: list[str], **options: Any) -> TensorRTRunner:
    return TensorRTRunner(b"plan", backend="tensorrt_rtx", inputs=SPECS, say=said.append, **options)


def called(gpu: Gpu, runner: TensorRTRunner, count: int, start: float = 0) -> Any:
    """What one call puts into the log; its numbers are checked."""
    before = len(gpu.driver.log)
    check(runner.infer(rows(count, start))["out"], count, start)
    return gpu.driver.counts(before)


def test_a_graph_is_captured_once_and_then_launched_alone(gpu: Gpu) -> None:
    said: list[str] = []
    with opened(said) as runner:
        first, second = called(gpu, runner, 2), called(gpu, runner, 2)
        assert (first["execute"], first["cuStreamBeginCapture"]) == (1, 0)
        assert second["cuGraphInstantiate"] == 1
        for i in range(5):
            done = called(gpu, runner, 2, i)
            assert (done["cuGraphLaunch"], done["execute"], done["cuGraphInstantiate"]) == (1, 0, 0)
    assert said == [] and gpu.driver.held == {}


def test_every_shape_has_its_own_and_a_return_is_proved_first(gpu: Gpu) -> None:
    """The context was in another state in between: one call in the stream sets it again, one compares."""
    with opened([]) as runner:
        for count in (4, 2):
            for i in range(3):
                called(gpu, runner, count, i)
        assert gpu.driver.counts()["cuGraphInstantiate"] == 2
        back = [called(gpu, runner, 4, i) for i in range(3)]
        assert (back[0]["cuGraphLaunch"], back[0]["execute"]) == (0, 1)
        assert (back[1]["cuGraphLaunch"], back[1]["execute"]) == (1, 1)
        assert (back[2]["cuGraphLaunch"], back[2]["execute"]) == (1, 0)
        assert gpu.driver.counts()["cuGraphInstantiate"] == 2 and gpu.contexts == 1


def test_graphs_of_buffers_that_moved_are_not_launched(gpu: Gpu) -> None:
    with opened([]) as runner:
        for count in (1, 4, 1):
            for i in range(4):
                called(gpu, runner, count, i)
    # 512 bytes hold batches of this size, so nothing moves; make it move
    with opened([]) as runner:
        for i in range(3):
            called(gpu, runner, 2, i)
        held = runner._calls.run._own["x"]
        held.nbytes = 1  # as of a smaller batch
        for i in range(4):
            called(gpu, runner, 2, i)
        assert runner._calls.run.moved == 1
    assert gpu.driver.held == {}


@pytest.mark.parametrize("again", [4, 2])
def test_a_larger_batch_that_finds_no_memory_leaves_no_graph_behind(gpu: Gpu, again: int) -> None:
    """Its buffers were given back on the way: what was captured would read and write where others are by now."""
    with opened([]) as runner:
        for i in range(3):
            called(gpu, runner, 2, i)
        runner._calls.run._own["out"].nbytes = 1  # as of a smaller batch
        gpu.driver.refused = "cuMemAlloc"
        with pytest.raises(RunnerError, match="out of memory"):
            runner.infer(rows(4))
        gpu.driver.refused = None
        assert gpu.driver.held.get("launchable") is None
        for i in range(4):
            called(gpu, runner, again, i)
    assert gpu.driver.held == {}


def test_a_shape_that_tensorrt_refuses_leaves_the_next_one_to_be_proved(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The context was set to other shapes in between, though no call was made with them."""
    with opened([]) as runner:
        for i in range(3):
            called(gpu, runner, 2, i)
        with monkeypatch.context() as patch:
            patch.setattr(Context, "get_tensor_shape", lambda self, name: (-1, 3))
            with pytest.raises(RunnerError, match="depends on data"):
                runner.infer(rows(4))
        done = called(gpu, runner, 2)
        assert (done["execute"], done["cuGraphLaunch"]) == (1, 0)


def test_a_graph_that_is_no_faster_is_not_used(gpu: Gpu) -> None:
    gpu.stream_cost = 1.0
    said: list[str] = []
    with opened(said) as runner:
        for i in range(5):
            done = called(gpu, runner, 2, i)
        assert said == ["no CUDA graph is used: it takes 1.000 ms, and 1.000 ms in the stream"]
        assert (done["execute"], done["cuGraphLaunch"]) == (1, 0)
        (state,) = runner.replays.of.values()
        assert state.slower == "it takes 1.000 ms, and 1.000 ms in the stream"
        assert gpu.driver.counts()["cuGraphInstantiate"] == 1


def test_always_and_never(gpu: Gpu) -> None:
    gpu.stream_cost = 1.0
    for mode, launches in (("always", 1), ("never", 0)):
        with opened([], graphs=mode) as runner:
            for i in range(4):
                done = called(gpu, runner, 2, i)
        assert done["cuGraphLaunch"] == launches and done["execute"] == 1 - launches


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("capturable", "TensorRT says that this engine cannot be captured"),
        ("forgetful", "the captured graph makes other numbers than the engine"),
        ("cuStreamBeginCapture", "failed in cuStreamBeginCapture"),
        ("cuStreamEndCapture", "failed in cuStreamEndCapture"),
        ("cuGraphInstantiate", "failed in cuGraphInstantiate"),
        ("cuGraphLaunch", "failed in cuGraphLaunch"),
        ("cuEventElapsedTime", "failed in cuEventElapsedTime"),
    ],
)
def test_what_cannot_be_captured_runs_in_the_stream_and_says_why(gpu: Gpu, fault: str, said: str) -> None:
    notes: list[str] = []
    with opened(notes) as runner:
        called(gpu, runner, 2)
        if fault.startswith("cu"):
            real = type(gpu.driver).__getattr__

            def failing(driver: Any, name: str) -> Any:
                if name == fault:
                    driver.fail_at = len(driver.log)
                return real(driver, name)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(type(gpu.driver), "__getattr__", failing)
                called(gpu, runner, 2, 1)
            gpu.driver.fail_at = None
        else:
            setattr(gpu, fault, not getattr(gpu, fault))
        for i in range(4):
            done = called(gpu, runner, 2, i)
        assert (done["execute"], done["cuGraphLaunch"]) == (1, 0)
    assert len(notes) == 1 and notes[0].startswith("no CUDA graph is used: ") and said in notes[0]
    assert gpu.driver.held == {}


def test_bindings_of_a_newer_cuda_than_the_drivers_cost_the_graph_alone(gpu: Gpu) -> None:
    """Events are timed by another function from CUDA 12.8 on, which JetPack 6 has not."""
    notes: list[str] = []
    gpu.driver.missing = "cuEventElapsedTime"
    with opened(notes) as runner:
        for i in range(4):
            called(gpu, runner, 2, i)
        with pytest.raises(RunnerError, match="cuEventElapsedTime_v2 is not found") as caught:
            runner.milliseconds(lambda: None)
    assert "pip install 'cuda-bindings<14', for a driver of CUDA 13.0" in str(caught.value.hint)
    assert len(notes) == 1 and "the driver has no cuEventElapsedTime for the installed cuda-bindings" in notes[0]
    assert gpu.driver.held == {}


def test_the_arrays_of_a_replay_are_new_ones(gpu: Gpu) -> None:
    with opened([]) as runner:
        made = [runner.infer(rows(2, i))["out"] for i in range(6)]
    for i, each in enumerate(made):
        check(each, 2, i)
    assert len({each.ctypes.data for each in made}) == 6
    assert not np.shares_memory(made[3], made[4])
