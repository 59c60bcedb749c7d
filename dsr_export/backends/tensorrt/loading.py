"""A plan's bytes -> an engine and its one context, with what it takes from the runtime cache."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dsr_export.backends.gpu import compute_capability
from dsr_export.backends.tensorrt.engine_facts import numpy_name
from dsr_export.backends.tensorrt.runtime_cache import RuntimeCache
from dsr_export.backends.tensorrt.vendor import Vendor
from dsr_export.errors import ExportError, RunnerError
from graphs.artifacts import TensorSpec

_OLD_DRIVER = re.compile(
    r"(cudaError|error code) (35|222)\b|driver version is insufficient|cudaErrorInsufficientDriver"
    r"|unsupported toolchain"
)
_NO_MEMORY = re.compile(r"cudaError 2\b|out of memory|OutOfMemory|could not be allocated")


def load_engine(vendor: Vendor, plan: bytes | memoryview) -> tuple[Any, Any]:
    """Runtime and engine; the first must live as long as the second. Host code in a plan is never allowed to run.

    Raises:
        RunnerError: a plan that it cannot load, with what TensorRT said.
    """
    try:
        runtime = vendor.trt.Runtime(vendor.logger)
    except (TypeError, RuntimeError) as error:  # a binding whose C++ factory fails raises the first
        raise _load_error(vendor, str(error)) from error
    runtime.engine_host_code_allowed = False
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise _load_error(vendor, "TensorRT gives no reason")
    return runtime, engine


def make_context(vendor: Vendor, engine: Any, cache: RuntimeCache | None) -> Any:
    """The engine's context. TensorRT-RTX makes kernels for a shape when it is first met, and not while others run:
    then the numbers of equal calls would change when they are ready."""
    make = getattr(engine, "create_runtime_config", None) if vendor.backend == "tensorrt_rtx" else None
    if make is None:
        context = engine.create_execution_context()
    else:
        config = make()
        if config is None:  # without them, kernels would be made while others run
            raise _load_error(vendor, "it makes no object for its settings, and gives no reason")
        strategies = getattr(vendor.trt, "DynamicShapesKernelSpecializationStrategy", None)
        if strategies is not None:
            config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        kept = config.create_runtime_cache() if cache is not None and hasattr(config, "create_runtime_cache") else None
        if cache is not None and kept is not None:
            cache.fill(kept)
            config.set_runtime_cache(kept)
        context = engine.create_execution_context(runtime_config=config)
    if context is None:
        raise _load_error(vendor, "it makes no context, and gives no reason")
    return context


def io_types(engine: Any) -> dict[str, np.dtype[Any]]:
    """Tensor name -> numpy type, in the engine's order. ExportError for a type that numpy has not."""
    types: dict[str, np.dtype[Any]] = {}
    for name in (engine.get_tensor_name(i) for i in range(engine.num_io_tensors)):
        kind = numpy_name(engine.get_tensor_dtype(name))
        try:
            types[name] = np.dtype(kind)
        except TypeError as error:
            raise ExportError(
                f"tensor '{name}' is {kind}, which numpy has not", hint="build with FP32 inputs and outputs"
            ) from error
    return types


def check_engine(engine: Any, types: dict[str, np.dtype[Any]], specs: Sequence[TensorSpec]) -> None:
    """ExportError where the engine does not take exactly the inputs that callers are checked against."""
    wanted = {spec.name: np.dtype(spec.dtype) for spec in specs}
    found = {name: kind for name, kind in types.items() if engine.get_tensor_mode(name).name == "INPUT"}
    if found != wanted:
        raise ExportError(
            f"the engine takes the inputs {sorted(found)}, where {sorted(wanted)} are declared, or of other types",
            hint="the engine and its manifest do not belong together; build the bundle again",
        )


def plan_bytes(plan: Path | bytes) -> bytes:
    if isinstance(plan, bytes):
        return plan
    try:
        return plan.read_bytes()
    except OSError as error:
        raise ExportError(f"cannot read the engine {plan}: {error.strerror}") from error


def _load_error(vendor: Vendor, otherwise: str) -> RunnerError:
    said = "; ".join(vendor.log.errors) or otherwise
    what = f"{vendor.backend} {vendor.version}"
    if _OLD_DRIVER.search(said):
        return RunnerError(
            f"the NVIDIA driver is too old for {what}: {said}",
            hint="update the driver, or install the TensorRT that is made for its CUDA version (`nvidia-smi` shows it)",
        )
    if _NO_MEMORY.search(said):
        return RunnerError(
            f"the GPU has too little free memory for this engine: {said}",
            hint="end other processes that hold it (`nvidia-smi` lists them)",
        )
    return RunnerError(
        f"{what} cannot load this engine on a GPU of compute capability {compute_capability()}: {said}",
        hint="build it here: dsr-export compile BUNDLE --target TARGET; or use --runtime onnxruntime",
    )
