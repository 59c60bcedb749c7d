"""The runner's own work on a stand-in for the GPU: host memory behind Polygraphy's CUDA wrapper, and an engine that
doubles its input. On a real GPU: the tests marked `gpu`."""

from __future__ import annotations

import ctypes
import ctypes.util
import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dsr_export.backends import gpu
from dsr_export.backends.tensorrt import engine_fit
from dsr_export.backends.tensorrt import runner as tensorrt_runner
from dsr_export.backends.tensorrt.engine_fit import EngineNeeds, platform_facts
from dsr_export.backends.tensorrt.runner import TensorRTRunner, gpu_available
from dsr_export.backends.tensorrt.vendor import load_vendor
from dsr_export.errors import ExportError, RunnerError
from graphs.artifacts import TensorSpec

SPECS = (TensorSpec(name="x", dtype="float32", shape=("batch", 3)),)


class HostMemory:
    """What `polygraphy.cuda.wrapper()` offers, on the host. Counts what is allocated and not yet freed."""

    def __init__(self) -> None:
        self.blocks: dict[int, Any] = {}
        self.streams = 0

    def malloc(self, size: int) -> int:
        block = (ctypes.c_uint8 * size)()
        self.blocks[ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    def free(self, pointer: int) -> None:
        self.blocks.pop(pointer, None)

    def memcpy(self, dst: int, src: int, nbytes: int, kind: Any, stream_ptr: int | None = None) -> None:
        assert stream_ptr == 7
        ctypes.memmove(dst, src, nbytes)

    def create_stream(self) -> int:
        self.streams += 1
        return 7

    def destroy_stream(self, pointer: int) -> None:
        self.streams -= 1

    def stream_synchronize(self, pointer: int) -> None:
        assert pointer == 7


class Doubling:
    """An engine and its context: `y = 2 * x`, batch 1 to 4. It refuses to run where `broken`."""

    num_io_tensors = 2

    def __init__(self, logger: Any) -> None:
        self.logger, self.shape, self.addresses, self.broken = logger, (0, 0), {}, False
        self.host_code_allowed: bool | None = None

    def create_execution_context(self) -> Doubling:
        return self

    def get_tensor_name(self, index: int) -> str:
        return ("x", "y")[index]

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name="FLOAT")

    def get_tensor_mode(self, name: str) -> Any:
        return SimpleNamespace(name={"x": "INPUT", "y": "OUTPUT"}[name])

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, int]]:
        return [(1, 3), (2, 3), (4, 3)]

    def set_input_shape(self, name: str, shape: tuple[int, int]) -> bool:
        self.shape = shape
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, int]:
        return self.shape

    def set_tensor_address(self, name: str, pointer: int) -> bool:
        self.addresses[name] = pointer
        return True

    def execute_async_v3(self, stream: int) -> bool:
        if self.broken:
            self.logger.log(SimpleNamespace(name="ERROR"), "Myelin is unwell")
            return False
        x, y = (self._values(self.addresses[name]) for name in "xy")
        y[:] = 2 * x
        return True

    def _values(self, pointer: int) -> Any:
        count = self.shape[0] * self.shape[1]
        return np.frombuffer((ctypes.c_float * count).from_address(pointer), np.float32)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> HostMemory:
    pytest.importorskip("tensorrt_rtx", reason="needs the rtx extra")
    load_vendor("tensorrt_rtx")  # Polygraphy takes the backend that is chosen before it is first imported
    import polygraphy.cuda.cuda

    memory = HostMemory()
    monkeypatch.setattr(polygraphy.cuda.cuda, "G_CUDA", memory)
    return memory


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, memory: HostMemory) -> Doubling:
    pytest.importorskip("tensorrt_rtx", reason="needs the rtx extra")
    real = load_vendor("tensorrt_rtx")
    engine = Doubling(real.logger)

    class Runtime:
        engine_host_code_allowed = True

        def __init__(self, logger: Any) -> None:
            assert logger is real.logger

        def deserialize_cuda_engine(self, plan: bytes) -> Doubling | None:
            engine.host_code_allowed = self.engine_host_code_allowed
            return engine if plan == b"plan" else None

    fake = dataclasses.replace(real, trt=SimpleNamespace(Runtime=Runtime, __version__="1.2.3"))
    monkeypatch.setattr(tensorrt_runner, "load_vendor", lambda backend: fake)
    monkeypatch.setattr(tensorrt_runner, "gpu_available", lambda: True)
    return engine


def opened(plan: Path | bytes = b"plan") -> TensorRTRunner:
    return TensorRTRunner(plan, backend="tensorrt_rtx", inputs=SPECS)


def fitted(**differing: Any) -> EngineNeeds:
    """What the plan would need if it had been built here, but for `differing`."""
    built = {"target": "rtx", "backend": "tensorrt_rtx", "version": "1.2.3", "compute_capabilities": ()}
    return EngineNeeds(**{**built, **platform_facts(), **differing})


def rows(count: int, start: float = 0) -> np.ndarray:
    return (np.arange(count * 3, dtype=np.float32) + start).reshape(count, 3)


def test_batches_of_changing_size_share_buffers_that_are_freed(engine: Doubling, memory: HostMemory) -> None:
    with opened() as runner:
        for count in (2, 4, 1, 3):
            made = runner.infer({"x": rows(count, count)})
            assert list(made) == ["y"]
            np.testing.assert_array_equal(made["y"], 2 * rows(count, count))
        assert len(memory.blocks) == 2 and memory.streams == 1
    assert not memory.blocks and memory.streams == 0
    assert runner.name == "tensorrt_rtx"


def test_results_do_not_share_memory_with_later_ones(engine: Doubling) -> None:
    with opened() as runner:
        first = runner.infer({"x": rows(2)})["y"]
        runner.infer({"x": rows(2, 100)})
    np.testing.assert_array_equal(first, 2 * rows(2))


def test_host_code_in_a_plan_is_never_allowed(engine: Doubling) -> None:
    with opened():
        assert engine.host_code_allowed is False


def test_a_batch_outside_the_profile_is_refused(engine: Doubling) -> None:
    with opened() as runner, pytest.raises(RunnerError, match=r"\[5, 3\], and this engine takes \[1, 3\] to \[4, 3\]"):
        runner.infer({"x": rows(5)})


def test_wrong_inputs_are_refused(engine: Doubling) -> None:
    with opened() as runner, pytest.raises(ExportError, match="'x' is float64"):
        runner.infer({"x": rows(2).astype(np.float64)})


def test_a_failing_run_says_what_tensorrt_logged(engine: Doubling) -> None:
    with opened() as runner:
        engine.broken = True
        with pytest.raises(RunnerError, match="the engine failed: Myelin is unwell"):
            runner.infer({"x": rows(2)})


def test_a_plan_from_elsewhere_is_refused(engine: Doubling, tmp_path: Path) -> None:
    (tmp_path / "engine.plan").write_bytes(b"something else")
    with pytest.raises(RunnerError, match=r"tensorrt_rtx 1\.2\.3 cannot load this engine") as caught:
        opened(tmp_path / "engine.plan")
    assert "dsr-export compile" in (caught.value.hint or "")
    with pytest.raises(ExportError, match="cannot read the engine"):
        opened(tmp_path / "missing.plan")


def test_a_plan_built_for_this_machine_is_opened(engine: Doubling, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_fit, "compute_capability", lambda: "8.9")
    with TensorRTRunner(b"plan", backend="tensorrt_rtx", inputs=SPECS, needs=fitted()) as runner:
        np.testing.assert_array_equal(runner.infer({"x": rows(2)})["y"], 2 * rows(2))


@pytest.mark.parametrize(
    ("differing", "said"),
    [
        ({"version": "1.2.4"}, "built with tensorrt_rtx 1.2.4, and 1.2.3 is installed"),
        ({"compute_capabilities": ("8.6",)}, "for compute capability 8.6, and this GPU has 8.9"),
        ({"machine": "riscv64"}, "built on .* riscv64, and this is"),
    ],
)
def test_a_foreign_plan_never_reaches_the_runtime(
    engine: Doubling, monkeypatch: pytest.MonkeyPatch, differing: dict[str, Any], said: str
) -> None:
    monkeypatch.setattr(engine_fit, "compute_capability", lambda: "8.9")
    needs = fitted(bundle="big.dsr", **differing)
    with pytest.raises(ExportError, match=said) as caught:
        TensorRTRunner(b"plan", backend="tensorrt_rtx", inputs=SPECS, needs=needs)
    assert "dsr-export compile big.dsr --target rtx;" in str(caught.value.hint)
    assert engine.host_code_allowed is None  # deserialize_cuda_engine was not called


def test_declared_inputs_must_be_the_engines(engine: Doubling) -> None:
    with pytest.raises(ExportError, match="are declared"):
        TensorRTRunner(b"plan", backend="tensorrt_rtx", inputs=[TensorSpec(name="z", dtype="float32", shape=(1,))])


def test_a_closed_engine_says_so(engine: Doubling) -> None:
    with opened() as runner:
        pass
    with pytest.raises(ExportError, match="closed"):
        runner.infer({"x": rows(2)})


def test_without_a_gpu_the_way_out_is_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_runner, "gpu_available", lambda: False)
    with pytest.raises(ExportError, match="no GPU") as caught:
        opened()
    assert "--runtime onnxruntime" in (caught.value.hint or "")


@pytest.mark.parametrize("driver", ["libno-such-driver.so", ctypes.util.find_library("c") or "libc.so.6"])
def test_asking_for_a_gpu_never_raises(monkeypatch: pytest.MonkeyPatch, driver: str) -> None:
    monkeypatch.setattr(gpu, "_DRIVER", driver)
    assert gpu_available() is False
