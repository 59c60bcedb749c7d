"""The runner's own work on stand-ins for the GPU and TensorRT-RTX. On a real GPU: the tests marked `gpu`."""

from __future__ import annotations

import ctypes.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsr_export.backends import gpu as gpu_module
from dsr_export.backends.cuda import driver as cuda_driver
from dsr_export.backends.cuda.device_tensor import DeviceTensor
from dsr_export.backends.gpu import gpu_available
from dsr_export.backends.tensorrt import engine_fit
from dsr_export.backends.tensorrt.engine_fit import EngineNeeds, platform_facts
from dsr_export.backends.tensorrt.runner import TensorRTRunner
from dsr_export.errors import ExportError, RunnerError
from graphs.artifacts import TensorSpec
from tests.backends.tensorrt.driver_stand_in import OUT_OF_MEMORY
from tests.backends.tensorrt.engine_stand_in import SPECS, Gpu, stand_in, step


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    return stand_in(monkeypatch)


def opened(plan: Path | bytes = b"plan", **options: Any) -> TensorRTRunner:
    return TensorRTRunner(plan, **{"backend": "tensorrt_rtx", "inputs": SPECS, **options})


def fitted(**differing: Any) -> EngineNeeds:
    """What the plan would need if it had been built here, but for `differing`."""
    built = {"target": "rtx", "backend": "tensorrt_rtx", "version": "1.2.3", "compute_capabilities": ()}
    return EngineNeeds(**{**built, **platform_facts(), **differing})


def rows(count: int, start: float = 0) -> dict[str, np.ndarray]:
    x = (np.arange(count * 3, dtype=np.float32) + start).reshape(count, 3)
    return {"x": x, "t": np.arange(count, dtype=np.float32)}


def check(made: np.ndarray, count: int, start: float = 0) -> None:
    np.testing.assert_array_equal(made, step(**rows(count, start)))


def test_one_context_serves_all_batches_and_everything_is_given_back(gpu: Gpu) -> None:
    with opened() as runner:
        for count in (2, 4, 1, 3, 3, 2, 4, 4, 4, 1):
            made = runner.infer(rows(count, count))
            assert list(made) == ["out"]
            check(made["out"], count, count)
        assert gpu.contexts == 1
        assert len(gpu.driver.alive["memory"]) <= 2 * 3  # those of the largest batch, and smaller ones kept for reuse
    assert gpu.driver.held == {} and gpu.driver.current == [] and gpu.alive == set()
    assert runner.name == "tensorrt_rtx" and gpu.strategy == "eager"


def test_shapes_are_set_where_they_change(gpu: Gpu) -> None:
    with opened() as runner:
        for count in (2, 2, 2, 1, 1):
            runner.infer(rows(count))
    assert gpu.reshaped == [(2, 3), (1, 3)]


def test_results_do_not_share_memory_with_later_ones(gpu: Gpu) -> None:
    with opened() as runner:
        host = runner.infer(rows(2))["out"]
        device = runner.infer_on_device(rows(2))["out"]
        for _ in range(4):
            runner.infer(rows(2, 100))
            runner.infer_on_device(rows(2, 100))
        check(host, 2)
        check(device.numpy(), 2)


def test_tensors_on_the_device_are_bound_where_they_lie(gpu: Gpu) -> None:
    with opened(graphs="never") as runner:
        inputs = {name: runner.upload(array) for name, array in rows(2).items()}
        start = len(gpu.driver.log)
        made = runner.infer_on_device(inputs)["out"]
        done = gpu.driver.counts(start)
        assert done["execute"] == 1 and not [name for name in done if name.startswith("cuMemcpy")]
        check(made.numpy(), 2)


class Torchlike:
    """A tensor of another framework on device 0 that is finished on the stream it is asked for."""

    def __init__(self, tensor: DeviceTensor) -> None:
        self.tensor, self.streams = tensor, list[Any]()

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.tensor.__dlpack_device__()

    def __dlpack__(self, *, stream: int | None = None) -> object:
        self.streams.append(stream)
        return self.tensor.__dlpack__()


def test_other_frameworks_tensors_are_read_in_their_order_and_waited_for(gpu: Gpu) -> None:
    with opened(graphs="never") as runner:
        given = {name: Torchlike(runner.upload(array)) for name, array in rows(3).items()}
        start = len(gpu.driver.log)
        made = runner.infer_on_device(given)["out"]
        done = gpu.driver.counts(start)
        assert not [name for name in done if name.startswith("cuMemcpy")]
        assert gpu.driver.log[start:].index("execute") < len(gpu.driver.log[start:]) - 1
        after = gpu.driver.log[start:][gpu.driver.log[start:].index("execute") :]
        assert "cuStreamSynchronize" in after
        assert [len(each.streams) for each in given.values()] == [1, 1] and given["x"].streams[0] > 1
        check(made.numpy(), 3)


def test_a_tensor_that_was_handed_on_outlives_the_engine(gpu: Gpu) -> None:
    with opened() as runner:
        made = runner.infer_on_device(rows(2))["out"]
        capsule = made.__dlpack__()
        pointer = made.pointer
        del made
    assert list(gpu.driver.alive["memory"]) == [pointer] and gpu.driver.held["context"] == 1
    del capsule
    assert gpu.driver.held == {}


def test_device_inputs_are_checked_as_arrays_are(gpu: Gpu) -> None:
    with opened() as runner:
        with pytest.raises(ExportError, match="'x' is float64"):
            runner.infer_on_device({**rows(2), "x": np.zeros((2, 3))})
        with pytest.raises(RunnerError, match=r"\[5, 3\], and this engine takes"):
            runner.infer_on_device(rows(5))
        with pytest.raises(ExportError, match="'t' is missing"):
            runner.infer_on_device({"x": rows(2)["x"]})


def test_host_code_in_a_plan_is_never_allowed(gpu: Gpu) -> None:
    with opened():
        assert gpu.host_code_allowed is False


def test_a_batch_outside_the_profile_is_refused(gpu: Gpu) -> None:
    with opened() as runner, pytest.raises(RunnerError, match=r"\[5, 3\], and this engine takes \[1, 3\] to \[4, 3\]"):
        runner.infer(rows(5))


def test_wrong_inputs_are_refused(gpu: Gpu) -> None:
    with opened() as runner, pytest.raises(ExportError, match="'x' is float64"):
        runner.infer({**rows(2), "x": np.zeros((2, 3))})


def test_a_failing_run_says_what_tensorrt_logged(gpu: Gpu) -> None:
    with opened() as runner:
        gpu.broken = True
        with pytest.raises(RunnerError, match="the engine failed: Myelin is unwell"):
            runner.infer(rows(2))


def test_a_plan_from_elsewhere_is_refused(gpu: Gpu, tmp_path: Path) -> None:
    (tmp_path / "engine.plan").write_bytes(b"something else")
    with pytest.raises(RunnerError, match=r"tensorrt_rtx 1\.2\.3 cannot load this engine") as caught:
        opened(tmp_path / "engine.plan")
    assert "dsr-export compile" in (caught.value.hint or "")
    with pytest.raises(ExportError, match="cannot read the engine"):
        opened(tmp_path / "missing.plan")
    assert gpu.driver.held == {}


@pytest.mark.parametrize(
    ("logged", "said"),
    [
        ("Cuda Runtime error (cudaError 35)", "driver is too old for tensorrt_rtx 1.2.3"),
        ("CUDA driver version is insufficient for CUDA runtime version", "driver is too old"),
        ("[virtualMemoryBuffer.cpp] out of memory", "too little free memory for this engine"),
        ("Cuda Runtime error (cudaError 2)", "too little free memory for this engine"),
        ("Cuda Runtime error (cudaError 209: no kernel image is available)", "cannot load this engine on a GPU of"),
        ("Cuda Runtime error (cudaError 222: the PTX is of an unsupported toolchain)", "driver is too old"),
    ],
)
def test_what_keeps_an_engine_from_loading_is_named(gpu: Gpu, logged: str, said: str) -> None:
    gpu.loads = False
    gpu.log.clear = lambda: gpu.log.errors.append(logged)  # type: ignore[method-assign]
    with pytest.raises(RunnerError, match=said):
        opened()
    assert gpu.driver.held == {}


def test_a_plan_built_for_this_machine_is_opened(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_fit, "compute_capability", lambda: "8.9")
    with opened(needs=fitted()) as runner:
        check(runner.infer(rows(2))["out"], 2)


@pytest.mark.parametrize(
    ("differing", "said"),
    [
        ({"version": "1.2.4"}, "built with tensorrt_rtx 1.2.4, and 1.2.3 is installed"),
        ({"compute_capabilities": ("8.6",)}, "for compute capability 8.6, and this GPU has 8.9"),
        ({"machine": "riscv64"}, "built on .* riscv64, and this is"),
    ],
)
def test_a_foreign_plan_never_reaches_the_runtime(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch, differing: dict[str, Any], said: str
) -> None:
    monkeypatch.setattr(engine_fit, "compute_capability", lambda: "8.9")
    with pytest.raises(ExportError, match=said) as caught:
        opened(needs=fitted(bundle="big.dsr", **differing))
    assert "dsr-export compile big.dsr --target rtx;" in str(caught.value.hint)
    assert gpu.host_code_allowed is None and gpu.driver.log == []  # nothing was tried


def test_declared_inputs_must_be_the_engines(gpu: Gpu) -> None:
    with pytest.raises(ExportError, match="are declared"):
        opened(inputs=[TensorSpec(name="z", dtype="float32", shape=(1,))])
    assert gpu.driver.held == {}


def test_a_closed_engine_says_so(gpu: Gpu) -> None:
    with opened() as runner:
        pass
    for call in (lambda: runner.infer(rows(2)), lambda: runner.infer_on_device(rows(2))):
        with pytest.raises(ExportError, match="closed"):
            call()
    runner.__exit__(None, None, None)  # once more does nothing


@pytest.mark.parametrize(
    ("code", "said", "hint"),
    [
        (OUT_OF_MEMORY, r"out of memory: 1\.0 of 1\.0 GB are free", "end other processes"),
        (46, "taken by another process", "nvidia-smi"),
        (101, "no GPU with the index 0", "CUDA_VISIBLE_DEVICES"),
        (719, r"failed in cu.*: unspecified launch failure \(CUDA_ERROR_LAUNCH_FAILED\)", None),
    ],
)
def test_the_gpus_own_failures_are_said(gpu: Gpu, code: int, said: str, hint: str | None) -> None:
    gpu.driver.fail_at, gpu.driver.code = 2, code
    with pytest.raises(RunnerError, match=said) as caught:
        opened()
    assert hint is None or hint in str(caught.value.hint)


def test_without_a_gpu_the_way_out_is_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_driver, "gpu_problem", lambda: "there is no GPU here")
    for call in (cuda_driver.open_cuda, lambda: opened(needs=fitted())):
        with pytest.raises(ExportError, match="no GPU") as caught:
            call()
        assert "--runtime onnxruntime" in (caught.value.hint or "")


@pytest.mark.parametrize("driver", ["libno-such-driver.so", ctypes.util.find_library("c") or "libc.so.6"])
def test_asking_for_a_gpu_never_raises(monkeypatch: pytest.MonkeyPatch, driver: str) -> None:
    monkeypatch.setattr(gpu_module, "_DRIVER", driver)
    assert gpu_available() is False
    assert "does not load" in str(gpu_module.gpu_problem())
