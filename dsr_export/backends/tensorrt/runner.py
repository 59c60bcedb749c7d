"""Runs an engine plan on the GPU, through the vendor's plain runtime API and ctypes: no torch."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from dsr_export.backends.base import Array
from dsr_export.backends.gpu import compute_capability, gpu_available
from dsr_export.backends.inputs import check_inputs
from dsr_export.backends.tensorrt.engine_facts import numpy_name
from dsr_export.backends.tensorrt.engine_fit import EngineNeeds, Machine, check_fit
from dsr_export.backends.tensorrt.vendor import Vendor, load_vendor
from dsr_export.errors import ExportError, RunnerError
from graphs.artifacts import TensorSpec

__all__ = ["TensorRTRunner", "gpu_available"]

PROFILE = 0  # we build exactly one


class TensorRTRunner:
    """A deserialised plan and its GPU buffers, which grow to the largest batch seen. `name` is the backend.

    A plan is native code: whoever opens one has checked its hash first. Host code in it is never allowed to run, and
    Polygraphy is not used to load it, because its loaders allow that.
    """

    def __init__(
        self, plan: Path | bytes, *, backend: str, inputs: Sequence[TensorSpec], needs: EngineNeeds | None = None
    ) -> None:
        """`backend` is `tensorrt_rtx` or `tensorrt`; `inputs` are what callers are checked against.

        `needs` is what the plan was built for, checked before it is read; None for one that this process built.

        Raises:
            RunnerError: a plan that it cannot load.
            ExportError: no GPU, a missing package, a plan of another version or GPU, or other inputs than `inputs`.
        """
        if not gpu_available():
            raise ExportError(f"there is no GPU here, and {backend} runs on one", hint="use --runtime onnxruntime")
        self.name = backend
        self._specs = tuple(inputs)
        self._vendor = load_vendor(backend)
        if needs is not None:
            check_fit(needs, Machine.here(self._vendor.version))
        self._resources = contextlib.ExitStack()
        self._buffers: dict[str, Any] = {}
        with self._vendor.quietly():
            self._runtime, self._engine, self._context = _load(self._vendor, _bytes(plan))
            self._types = _io_types(self._vendor, self._engine)
            self._check_declared()
            try:
                self._stream = self._resources.enter_context(self._vendor.cuda.Stream())
            except (OSError, self._vendor.failure) as error:
                raise _cuda_error(error) from error

    def __enter__(self) -> TensorRTRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._vendor.quietly():
            self._resources.close()
        self._buffers.clear()
        self._context = self._engine = self._runtime = None  # in this order: each needs the next

    def infer(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """Named inputs to named outputs, batch first.

        Raises:
            ExportError: a wrong name, shape or type.
            RunnerError: a batch outside the engine's profile, or a failure on the GPU.
        """
        if self._context is None:
            raise RunnerError("this engine is closed")
        fed = check_inputs(inputs, self._specs)
        for name, array in fed.items():
            self._check_profile(name, array)
        with self._vendor.quietly() as log:
            try:
                outputs = self._run(fed)
            except self._vendor.failure as error:
                raise _cuda_error(error) from error
            if outputs is None:
                raise RunnerError(f"the engine failed: {'; '.join(log.errors) or 'TensorRT gives no reason'}")
            return outputs

    def _run(self, fed: dict[str, Array]) -> dict[str, Array] | None:
        """None where TensorRT refused a step; its log has the reason."""
        for name, array in fed.items():
            if not self._context.set_input_shape(name, array.shape):
                return None
        for name, array in fed.items():
            self._bind(name, array.nbytes).copy_from(_raw(array), self._stream)
        outputs = {name: self._empty(name) for name in self._types if name not in fed}
        for name, array in outputs.items():
            self._bind(name, array.nbytes)
        if not self._context.execute_async_v3(self._stream.ptr):
            return None
        for name, array in outputs.items():
            self._buffers[name].copy_to(_raw(array), self._stream)
        self._stream.synchronize()
        return outputs

    def _empty(self, name: str) -> Array:
        shape = tuple(self._context.get_tensor_shape(name))
        if any(size < 0 for size in shape):
            raise RunnerError(f"output '{name}' has the shape {list(shape)}, which depends on data")
        return np.empty(shape, self._types[name])

    def _bind(self, name: str, size: int) -> Any:
        """A device buffer of at least `size` bytes, bound to the tensor."""
        if name not in self._buffers:
            self._buffers[name] = self._resources.enter_context(self._vendor.cuda.DeviceArray.raw((size,)))
        buffer = self._buffers[name].resize((size,))
        self._context.set_tensor_address(name, buffer.ptr)
        return buffer

    def _check_profile(self, name: str, array: Array) -> None:
        low, _, high = (tuple(shape) for shape in self._engine.get_tensor_profile_shape(name, PROFILE))
        if any(not a <= size <= b for a, size, b in zip(low, array.shape, high, strict=True)):
            raise RunnerError(
                f"input '{name}' has shape {list(array.shape)}, and this engine takes {list(low)} to {list(high)}",
                hint="build with a wider --batch MIN,OPT,MAX",
            )

    def _check_declared(self) -> None:
        wanted = {spec.name: np.dtype(spec.dtype) for spec in self._specs}
        modes = {name: self._engine.get_tensor_mode(name) for name in self._types}
        found = {name: self._types[name] for name, mode in modes.items() if mode.name == "INPUT"}
        if found != wanted:
            raise ExportError(
                f"the engine takes the inputs {sorted(found)}, where {sorted(wanted)} are declared, or of other types",
                hint="the engine and its manifest do not belong together; build the bundle again",
            )


def _load(vendor: Vendor, plan: bytes) -> tuple[Any, Any, Any]:
    """Runtime, engine and context. TensorRT returns None on failure and says why in its log."""
    runtime = vendor.trt.Runtime(vendor.logger)
    runtime.engine_host_code_allowed = False
    engine = runtime.deserialize_cuda_engine(plan)
    context = None if engine is None else engine.create_execution_context()
    if context is None:
        said = "; ".join(vendor.log.errors) or "TensorRT gives no reason"
        raise RunnerError(
            f"{vendor.backend} {vendor.version} cannot load this engine on a GPU of compute capability "
            f"{compute_capability()}: {said}",
            hint="build it here: dsr-export compile BUNDLE --target TARGET; or use --runtime onnxruntime",
        )
    return runtime, engine, context


def _io_types(vendor: Vendor, engine: Any) -> dict[str, np.dtype[Any]]:
    """Tensor name -> numpy type, inputs and outputs in the engine's order."""
    types: dict[str, np.dtype[Any]] = {}
    for name in (engine.get_tensor_name(i) for i in range(engine.num_io_tensors)):
        try:
            types[name] = np.dtype(numpy_name(engine.get_tensor_dtype(name)))
        except TypeError as error:
            raise ExportError(
                f"tensor '{name}' is {numpy_name(engine.get_tensor_dtype(name))}, which numpy has not",
                hint="build with FP32 inputs and outputs",
            ) from error
    return types


def _bytes(plan: Path | bytes) -> bytes:
    if isinstance(plan, bytes):
        return plan
    try:
        return plan.read_bytes()
    except OSError as error:
        raise ExportError(f"cannot read the engine {plan}: {error.strerror}") from error


def _raw(array: Array) -> Array:
    """The same memory as bytes, since device buffers are untyped."""
    return array.reshape(-1).view(np.uint8)


def _cuda_error(error: Exception) -> ExportError:
    if isinstance(error, OSError):
        return ExportError(
            f"the CUDA runtime library does not load: {error}",
            hint="put the folder that holds libcudart.so (a CUDA toolkit, or a pip package) on LD_LIBRARY_PATH",
        )
    return RunnerError(f"the GPU failed: {error}", hint="a smaller --batch needs less GPU memory")
