"""The runner of engines on the real driver: TensorRT is stood in for, by an engine that copies its input.

So streams, buffers, graphs and tensors are the GPU's own wherever there is one, known to TensorRT or not.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from dsr_export.backends.cuda.driver import open_cuda
from dsr_export.backends.cuda.memory import Pool
from dsr_export.backends.tensorrt import runner as tensorrt_runner
from dsr_export.backends.tensorrt.runner import TensorRTRunner
from dsr_export.errors import RunnerError
from tests.backends.tensorrt.engine_stand_in import MAX_BATCH, SPECS, Context, stand_in
from tests.gpu import checks

pytestmark = pytest.mark.gpu
WIDTH = 4  # bytes of float32
CALLS = 5  # a graph is captured at the second, and used from then on


class Copying(Context):
    """`out` is `x`, copied by the GPU in the runner's stream."""

    def execute_async_v3(self, stream: int) -> bool:
        from cuda.bindings import driver

        size = int(np.prod(self.shapes["x"])) * WIDTH
        (code,) = driver.cuMemcpyDtoDAsync(self.addresses["out"], self.addresses["x"], size, stream)
        return not int(code)


@pytest.fixture(autouse=True)
def copying(monkeypatch: pytest.MonkeyPatch, capability: str) -> None:
    pytest.importorskip("cuda.bindings", reason="needs the package cuda-bindings")
    stand_in(monkeypatch).context = Copying
    monkeypatch.setattr(tensorrt_runner, "open_cuda", open_cuda)


def opened(**options: Any) -> TensorRTRunner:
    return TensorRTRunner(b"plan", backend="tensorrt_rtx", inputs=SPECS, **options)


def rows(count: int, start: float = 0) -> dict[str, np.ndarray]:
    x = (np.arange(count * 3, dtype=np.float32) + np.float32(start)).reshape(count, 3)
    return {"x": x, "t": np.zeros(count, np.float32)}


@pytest.fixture(params=["never", "always", "auto"])
def runner(request: pytest.FixtureRequest) -> Iterator[TensorRTRunner]:
    with opened(graphs=request.param) as made:
        yield made


def test_all_batches_make_their_own_numbers(runner: TensorRTRunner) -> None:
    for count in (2, MAX_BATCH, 1, 2, 3):
        for call in range(CALLS):
            given = rows(count, call)
            np.testing.assert_array_equal(runner.infer(given)["out"], given["x"])
            held = {name: runner.upload(array) for name, array in given.items()}
            np.testing.assert_array_equal(runner.infer_on_device(held)["out"].numpy(), given["x"])
    assert [each.problem for each in runner.replays.of.values()] == [None] * len(runner.replays.of)


def test_a_graph_is_captured_and_raced() -> None:
    with opened(graphs="auto") as runner:
        for call in range(CALLS):
            runner.infer(rows(2, call))
        (state,) = runner.replays.of.values()
        assert state.graph is not None and state.problem is None
        assert (state.stream_ms or 0) > 0 and (state.graph_ms or 0) > 0
        assert runner.milliseconds(lambda: runner.infer(rows(2))) > 0


def test_a_thousand_calls_keep_no_memory(runner: TensorRTRunner) -> None:
    for _ in range(checks.WARM_UP):
        runner.infer_on_device(rows(2))
    before = checks.free_memory()
    for call in range(checks.MANY):
        runner.infer_on_device(rows(1 + call % MAX_BATCH))
    assert before - checks.free_memory() <= checks.PAGE


def test_a_closed_runner_gives_its_memory_back() -> None:
    left = []
    for _ in range(4):
        with opened(graphs="always") as runner:
            for call in range(CALLS):
                runner.infer(rows(MAX_BATCH, call))
        left.append(checks.free_memory())
    assert left[1] - left[-1] <= checks.PAGE


def test_a_tensor_outlives_the_runner() -> None:
    with opened() as runner:
        kept = runner.infer_on_device(rows(3, 7))["out"]
        capsule = kept.__dlpack__()
        for call in range(CALLS):
            runner.infer_on_device(rows(3, call))
        np.testing.assert_array_equal(kept.numpy(), rows(3, 7)["x"])
    del kept, runner
    assert capsule is not None


def test_torch_reads_a_tensor_of_a_closed_runner() -> None:
    torch = pytest.importorskip("torch", reason="a device may have no torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch sees no GPU")
    with opened() as runner:
        tensor = runner.infer_on_device(rows(3, 7))["out"]
        made = torch.from_dlpack(tensor)
        assert made.data_ptr() == tensor.pointer
        given = {name: torch.from_numpy(array).cuda() for name, array in rows(4, 9).items()}
        again = torch.from_dlpack(runner.infer_on_device(given)["out"])
    del tensor, runner
    np.testing.assert_array_equal(made.cpu().numpy(), rows(3, 7)["x"])
    np.testing.assert_array_equal(again.cpu().numpy(), rows(4, 9)["x"])


def test_two_runners_work_at_once() -> None:
    wrong = list[str]()

    def work(start: float) -> None:
        try:
            with opened(graphs="always") as runner:
                for call in range(200):
                    given = rows(1 + call % MAX_BATCH, start + call)
                    if not np.array_equal(runner.infer(given)["out"], given["x"]):
                        wrong.append(f"{start} {call}")
        except Exception as error:
            wrong.append(repr(error))

    threads = [threading.Thread(target=work, args=(start,)) for start in (0.0, 1e4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert wrong == []


def test_memory_that_is_not_there_is_said(capability: str) -> None:
    cuda = open_cuda()
    pool = Pool(cuda)
    try:
        with cuda.current():
            _, total = cuda.free_and_total()
            with pytest.raises(RunnerError, match=r"the GPU is out of memory: \d+\.\d of \d+\.\d GB are free"):
                pool.take(2 * total)
            block = pool.take(1 << 20)  # the next one is served
            block.release()
    finally:
        pool.close()
