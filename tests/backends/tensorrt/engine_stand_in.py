"""A stand-in for TensorRT-RTX: an engine of one sampling step, its runtime and its runtime cache, on `Driver`."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dsr_export.backends.cuda.driver import Cuda
from dsr_export.backends.tensorrt import runner as tensorrt_runner
from dsr_export.backends.tensorrt.vendor import Vendor, VendorLog
from graphs.artifacts import TensorSpec
from tests.backends.tensorrt.driver_stand_in import Driver

SPECS = (
    TensorSpec(name="x", dtype="float32", shape=("batch", 3)),
    TensorSpec(name="t", dtype="float32", shape=("batch",)),
)
MAX_BATCH = 4
STREAM_COST = 3.0  # of a call in the stream, beside that of a graph, 1.0


def step(x: np.ndarray, t: np.ndarray) -> np.ndarray:
    """What the engine computes: `out`, the state after the step."""
    return np.asarray(x * np.float32(2) + t[:, None], np.float32)


@dataclass
class Gpu:
    """All stand-ins together, and what they are told to do."""

    driver: Driver
    log: VendorLog = field(default_factory=VendorLog)
    contexts: int = 0
    alive: set[str] = field(default_factory=set)
    broken: bool = False
    capturable: bool = True
    forgetful: bool = False
    """A captured call computes nothing."""
    reshaped: list[tuple[int, ...]] = field(default_factory=list)
    host_code_allowed: bool | None = None
    loads: bool = True
    stream_cost: float = STREAM_COST
    cache_blob: bytes = b"kernels"
    deserialized: list[bytes] = field(default_factory=list)
    strategy: str | None = None
    context: Callable[[Gpu], Context] = field(default_factory=lambda: Context)
    asked: list[str] = field(default_factory=list)
    """Calls of TensorRT's bindings, all but those of the driver."""
    raises_at: int | None = None
    """The number of the call of these that raises."""
    gives_nothing: str | None = None
    """The one that returns None."""


def binding(made: type[Any]) -> type[Any]:
    """A class whose methods are counted, and fail where the GPU is told so, as bindings of C++ do."""
    for name, method in list(vars(made).items()):
        if callable(method) and not name.startswith("_"):
            setattr(made, name, _counted(name, method))
    return made


def _counted(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        self.gpu.asked.append(name)
        if self.gpu.raises_at == len(self.gpu.asked) - 1:
            raise RuntimeError("Myelin is gone")
        return None if self.gpu.gives_nothing == name else method(self, *arguments, **named)

    return call


@binding
class Engine:
    num_io_tensors = 3

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        gpu.alive.add("engine")

    def __del__(self) -> None:
        self.gpu.alive.discard("engine")

    def create_runtime_config(self) -> Config:
        return Config(self.gpu)

    def create_execution_context(self, runtime_config: Config) -> Context | None:
        self.gpu.contexts += 1
        self.gpu.strategy = runtime_config.dynamic_shapes_kernel_specialization_strategy
        return self.gpu.context(self.gpu) if self.gpu.loads else None

    def get_tensor_name(self, index: int) -> str:
        return ("x", "t", "out")[index]

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name="FLOAT")

    def get_tensor_mode(self, name: str) -> Any:
        return SimpleNamespace(name="OUTPUT" if name == "out" else "INPUT")

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [(size, *([3] if name == "x" else [])) for size in (1, 2, MAX_BATCH)]


@binding
class Config:
    dynamic_shapes_kernel_specialization_strategy: str | None = None

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu

    def create_runtime_cache(self) -> Cache:
        return Cache(self.gpu)

    def set_runtime_cache(self, cache: Any) -> bool:
        return True


@binding
class Cache:
    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu

    def deserialize(self, blob: bytes) -> bool:
        self.gpu.deserialized.append(blob)
        return blob == self.gpu.cache_blob

    def serialize(self) -> bytes:
        return self.gpu.cache_blob


@binding
class Context:
    """It reads and writes where it was bound when a call was put into the stream, or captured."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu, self.addresses = gpu, dict[str, int]()
        self.shapes: dict[str, tuple[int, ...]] = {}
        gpu.alive.add("context")

    def __del__(self) -> None:
        self.gpu.alive.discard("context")

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        if name == "x":
            self.gpu.reshaped.append(shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes["x"] if name == "out" else self.shapes[name]

    def set_tensor_address(self, name: str, pointer: int) -> bool:
        self.addresses[name] = pointer
        return True

    def is_stream_capturable(self, stream: int) -> bool:
        return self.gpu.capturable

    def execute_async_v3(self, stream: int) -> bool:
        driver = self.gpu.driver
        driver.log.append("execute")
        if self.gpu.broken or driver.fail_at == len(driver.log) - 1:
            self.gpu.log.take("ERROR", "Myelin is unwell")
            return False
        assert stream in driver.alive["stream"]
        addresses, shapes, cost = dict(self.addresses), dict(self.shapes), self.gpu.stream_cost

        def work() -> None:
            x, t = (_array(addresses[name], shapes[name]) for name in "xt")
            _array(addresses["out"], shapes["x"])[:] = step(x, t)

        if driver.capturing is None:
            driver.clock += cost
            driver.enqueue(work)
        elif not self.gpu.forgetful:
            driver.enqueue(work)
        return True


def _array(pointer: int, shape: tuple[int, ...]) -> np.ndarray:
    kind = ctypes.c_float * int(np.prod(shape))
    return np.frombuffer(kind.from_address(pointer), np.float32).reshape(shape)


def stand_in(patch: pytest.MonkeyPatch) -> Gpu:
    """From now on every runner of an engine works on stand-ins."""
    gpu = Gpu(Driver())

    class Runtime:
        engine_host_code_allowed = True

        def __init__(self, logger: Any) -> None: ...

        def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
            gpu.host_code_allowed = self.engine_host_code_allowed
            return Engine(gpu) if plan == b"plan" else None

    @contextlib.contextmanager
    def verbosity(level: int) -> Iterator[None]:
        yield

    strategies = SimpleNamespace(EAGER="eager", LAZY="lazy")
    names = {"Runtime": Runtime, "__version__": "1.2.3", "DynamicShapesKernelSpecializationStrategy": strategies}
    vendor = Vendor(
        backend="tensorrt_rtx",
        trt=SimpleNamespace(**names),
        polygraphy=None,
        failure=RuntimeError,
        create_config=None,
        logger=None,
        log=gpu.log,
        _verbosity=verbosity,
    )
    patch.setattr(tensorrt_runner, "load_vendor", lambda backend: vendor)
    patch.setattr(tensorrt_runner, "require_gpu", lambda: None)
    patch.setattr(tensorrt_runner, "open_cuda", lambda: Cuda(gpu.driver))
    return gpu
