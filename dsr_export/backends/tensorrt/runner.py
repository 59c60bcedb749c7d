"""Runs an engine plan on the GPU: one context for all shapes, tensors that stay where they are, and no torch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from dsr_export.backends.base import Array
from dsr_export.backends.cuda.device_tensor import DeviceTensor, array_shape, device_inputs, is_foreign
from dsr_export.backends.cuda.driver import open_cuda, require_gpu
from dsr_export.backends.cuda.memory import Block, Pool
from dsr_export.backends.cuda.replay import Graphs, Replays
from dsr_export.backends.cuda.stream import Stream
from dsr_export.backends.inputs import check_declared, check_inputs
from dsr_export.backends.tensorrt.calls import Calls
from dsr_export.backends.tensorrt.engine_fit import EngineNeeds, Machine, check_fit
from dsr_export.backends.tensorrt.execution import Execution
from dsr_export.backends.tensorrt.loading import check_engine, io_types, load_engine, make_context, plan_bytes
from dsr_export.backends.tensorrt.runtime_cache import RuntimeCache
from dsr_export.backends.tensorrt.vendor import load_vendor
from dsr_export.errors import RunnerError
from graphs.artifacts import TensorSpec

PROFILE = 0  # we build exactly one


class TensorRTRunner:
    """A deserialised plan, its one context, and GPU memory that is given back when it is closed. `name` is the backend.

    A plan is native code: whoever opens one has checked its hash first. Host code in it is never allowed to run, and
    Polygraphy is not used to load it, because its loaders allow that. It is for one thread at a time.
    """

    def __init__(
        self,
        plan: Path | bytes,
        *,
        backend: str,
        inputs: Sequence[TensorSpec],
        needs: EngineNeeds | None = None,
        cache: Path | None = None,
        graphs: Graphs = "auto",
        say: Callable[[str], None] | None = None,
    ) -> None:
        """`backend` is `tensorrt_rtx` or `tensorrt`; `inputs` are what callers are checked against.

        `needs` is what the plan was built for, checked before it is read; None for one that this process built. `cache`
        is the file that keeps what TensorRT-RTX finishes for this GPU; `say` is told of that, and of graphs not used.

        Raises:
            RunnerError: a plan that it cannot load, or a GPU that cannot be used.
            ExportError: no GPU, a missing package, a plan of another version or GPU, or other inputs than `inputs`.
        """
        require_gpu()
        self.name, self._specs = backend, tuple(inputs)
        self._vendor = load_vendor(backend)
        if needs is not None:
            check_fit(needs, Machine.here(self._vendor.version))
        self._cuda = open_cuda()
        self._say = say or (lambda text: None)
        self._cache = None if cache is None else RuntimeCache(cache, self._say)
        with contextlib.ExitStack() as owned:
            self._pool = Pool(self._cuda)
            owned.callback(self._pool.close)
            with self._working(), self._vendor.asked():
                self._open(plan_bytes(plan), graphs, owned)
            self._owned: contextlib.ExitStack | None = owned.pop_all()

    def _open(self, plan: bytes, graphs: Graphs, owned: contextlib.ExitStack) -> None:
        self._free_before, _ = self._cuda.free_and_total()
        self._stream = Stream(self._cuda, owned)
        self._runtime, self._engine = load_engine(self._vendor, plan)
        owned.callback(self._forget_engine)
        self._types = io_types(self._engine)
        check_engine(self._engine, self._types, self._specs)
        shapes = {spec.name: self._engine.get_tensor_profile_shape(spec.name, PROFILE) for spec in self._specs}
        self._profile = {name: (tuple(low), tuple(high)) for name, (low, _, high) in shapes.items()}
        context = make_context(self._vendor, self._engine, self._cache)
        run = Execution(self._vendor, context, self._types, self._stream)
        owned.callback(run.close)
        self.replays = Replays(self._stream, graphs, self._say)
        owned.callback(self.replays.forget)
        self._calls = Calls(run, self.replays, self._pool)
        # First of all, before anything goes that still runs:
        owned.callback(self._cuda.give_back, "cuStreamSynchronize", self._stream.handle)

    def _forget_engine(self) -> None:
        self._engine = self._runtime = None  # in this order: the first needs the second

    def __enter__(self) -> TensorRTRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        owned, self._owned = self._owned, None
        if owned is None:
            return
        with owned, self._vendor.quietly():
            if kind is None and self._cache is not None:
                with self._cuda.current():
                    self._cache.keep()

    def infer(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """Named inputs to named outputs, batch first.

        Raises:
            ExportError: a wrong name, shape or type.
            RunnerError: a batch outside the engine's profile, or a failure on the GPU.
        """
        fed = check_inputs(inputs, self._specs)
        with self._working():
            shapes = self._set_shapes({name: array.shape for name, array in fed.items()})
            for name, array in fed.items():
                self._stream.to_device(self._calls.own[name], array)
            self._calls.make()
            outputs = {name: shape for name, shape in shapes.items() if name not in fed}
            return self._calls.read({name: np.empty(shape, self._types[name]) for name, shape in outputs.items()})

    def infer_on_device(self, inputs: Mapping[str, Any]) -> dict[str, DeviceTensor]:
        """As `infer`, from and to the GPU's memory; see `DeviceRunner`. Nothing is waited for, but for other
        frameworks' tensors, which they may change as soon as this returns."""
        with self._working():
            here: dict[str, Any] = {"device": self._cuda.device, "stream": self._stream.handle}
            with device_inputs(inputs, **here, upload=self._uploaded, finish=self._finish) as found:
                check_declared({name: array_shape(each) for name, each in found.items()}, self._specs)
                made = self._on_device(found)
                if any(is_foreign(each, self._finish) for each in inputs.values()):
                    self._stream.finish()
                return made

    def upload(self, array: Array) -> DeviceTensor:
        """A copy on the GPU, for any number of calls."""
        with self._working():
            return self._uploaded(array)

    def milliseconds(self, work: Callable[[], Any]) -> float:
        """Between two events of the GPU, before and after what `work` makes this runner do."""
        with self._working():
            return self._stream.milliseconds(work)

    def taken(self) -> int:
        """Bytes by which the GPU's free memory is less than before this runner was opened; others may have a part."""
        with self._working():
            return max(0, self._free_before - self._cuda.free_and_total()[0])

    def _on_device(self, found: Mapping[str, DeviceTensor]) -> dict[str, DeviceTensor]:
        shapes = self._set_shapes({spec.name: found[spec.name].shape for spec in self._specs})
        with contextlib.ExitStack() as failing:
            made = {name: self._tensor(name, shape, failing) for name, shape in shapes.items() if name not in found}
            self._calls.make_on_device(found, made)
            failing.pop_all()  # they are the caller's now
            return made

    def _set_shapes(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Those of the inputs, and those of the outputs that follow."""
        for name, shape in shapes.items():
            self._check_profile(name, shape)
        return self._calls.set_shapes(shapes)

    def _tensor(self, name: str, shape: tuple[int, ...], failing: contextlib.ExitStack) -> DeviceTensor:
        block = self._pool.take(self._calls.run.nbytes(name, shape))
        failing.callback(block.release)
        return self._device_tensor(block, shape, self._types[name])

    def _uploaded(self, array: Array) -> DeviceTensor:
        whole = np.ascontiguousarray(array).reshape(array.shape)
        with contextlib.ExitStack() as failing:
            block = self._pool.take(whole.nbytes)
            failing.callback(block.release)
            self._stream.to_device(block.pointer, whole)
            failing.pop_all()
            return self._device_tensor(block, whole.shape, whole.dtype)

    def _device_tensor(self, block: Block, shape: tuple[int, ...], dtype: np.dtype[Any]) -> DeviceTensor:
        return DeviceTensor(
            pointer=block.pointer,
            shape=shape,
            dtype=dtype,
            device=self._cuda.device,
            owner=block,
            read=self._download,
            finish=self._finish,
        )

    def _download(self, tensor: DeviceTensor) -> Array:
        made = np.empty(tensor.shape, tensor.dtype)
        with self._working():
            self._stream.to_host(made, tensor.pointer)
            self._stream.finish()
        return made

    def _finish(self) -> None:
        if self._owned is not None:  # a closed one has nothing left to do
            with self._working():
                self._stream.finish()

    @contextlib.contextmanager
    def _working(self) -> Iterator[None]:
        """The GPU is current and TensorRT quiet. RunnerError where the runner is closed."""
        if getattr(self, "_owned", self) is None:
            raise RunnerError("this engine is closed")
        with self._vendor.quietly(), self._cuda.current():
            yield

    def _check_profile(self, name: str, shape: tuple[int, ...]) -> None:
        low, high = self._profile[name]
        if any(not a <= size <= b for a, size, b in zip(low, shape, high, strict=True)):
            raise RunnerError(
                f"input '{name}' has shape {list(shape)}, and this engine takes {list(low)} to {list(high)}",
                hint="build with a wider --batch MIN,OPT,MAX",
            )
