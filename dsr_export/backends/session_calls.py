"""Calls of a session of ONNX Runtime's CUDA provider: as they come, or as a captured CUDA graph where that is faster.

A captured graph reads and writes where its buffers lay, so each shape has buffers of its own. Outputs that callers keep
never lie in the session's own memory, in which a graph writes what it needs in between.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

from dsr_export.backends.base import Array
from dsr_export.backends.cuda.device_tensor import DeviceTensor
from dsr_export.backends.cuda.diagnosis import out_of_memory
from dsr_export.backends.cuda.replay import SPOILT, Graphs, Replay, Replays, Work
from dsr_export.backends.gpu import copy_within
from dsr_export.backends.onnxruntime import failures, said
from dsr_export.errors import RunnerError

Made = TypeVar("Made")

IN_STREAM = -1
"""ONNX Runtime's number of no graph: it captures nothing in such a run."""
_GRAPH_ID = "gpu_graph_id"
Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class _Buffers:
    """What one shape's graph reads and writes."""

    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]


def on_gpu(call: Callable[[], Made]) -> Made:
    """What `call` returns. What ONNX Runtime raises of a GPU is our error: its memory is not the host's."""
    kinds: tuple[type[Exception], ...] = (RuntimeError, *failures())  # its bindings' own functions raise the first
    try:
        return call()
    except RunnerError as error:
        failed = out_of_memory(error.message) or error
    except kinds as error:
        failed = out_of_memory(str(error)) or RunnerError(f"ONNX Runtime failed on the GPU: {said(error)}")
    raise failed  # outside of the handlers: its cause would be called a lack of the host's memory


class SessionCalls:
    """Of a session on `memory` ("cuda") of `device`, whose graphs `replays` holds to what was asked."""

    def __init__(
        self,
        session: Any,
        memory: str,
        device: int,
        *,
        graphs: Graphs,
        problem: str | None,
        say: Callable[[str], None],
    ) -> None:
        """`graphs` says whether they are captured, `problem` why this session can't; `say` is told of others."""
        self._session, self._memory, self._device = session, memory, device
        self._names = [output.name for output in session.get_outputs()]
        self._own: dict[Shapes, _Buffers] = {}
        self._outputs: dict[Shapes, list[tuple[list[int], Any]]] = {}
        self._shapes: Shapes | None = None
        self._state, self._last = Replay(), 0
        self._binding: Any = None
        self.replays = Replays(self, graphs, say, problem)

    def make(self, inputs: Mapping[str, DeviceTensor]) -> dict[str, Any]:
        """ONNX Runtime's tensors by name, which are the caller's; done when it returns."""
        shapes = tuple(each.shape for each in inputs.values())
        if shapes != self._shapes:
            self._shapes, self._state = shapes, self.replays.enter(shapes)
        if not (self._state.used or self.replays.due(self._state)):
            self._state.calls += 1
            return self._in_stream(inputs, shapes)
        own = self._buffers(inputs, shapes)
        copy_within([(own.inputs[name].data_ptr(), each.pointer, each.nbytes) for name, each in inputs.items()])
        if self._state.used and self._state.graph is not None:
            self.launch(self._state.graph)
        else:
            self.replays.settle(self._state, self._work(own))
        return self._copied(own.outputs)

    def close(self) -> None:
        """Lets go of the session, and of all memory of its own: graphs know who launches them, and he knows them."""
        self.replays.of.clear()
        self._own.clear()
        self._session = self._binding = None

    def captured(self, work: Callable[[], None]) -> int:
        """The number of a new graph of the call that is bound: ONNX Runtime captures in a number's first run."""
        self._last += 1
        self.launch(self._last)
        return self._last

    def launch(self, graph: int) -> None:
        self._run(self._binding, graph)

    def drop(self, graph: int) -> None:
        """It goes with the session."""

    def milliseconds(self, work: Callable[[], None]) -> float:
        """By the host's clock: a run has ended when it returns."""
        began = time.perf_counter()
        work()
        return (time.perf_counter() - began) * 1e3

    def _run(self, binding: Any, graph: int) -> None:
        import onnxruntime

        options = onnxruntime.RunOptions()
        options.add_run_config_entry(_GRAPH_ID, str(graph))
        on_gpu(lambda: self._session.run_with_iobinding(binding, options))

    def _in_stream(self, inputs: Mapping[str, DeviceTensor], shapes: Shapes) -> dict[str, Any]:
        """From where the inputs lie. Only the first call of a shape tells the shapes of its outputs."""
        binding = self._bound(inputs)
        known = self._outputs.get(shapes)
        if known is not None:
            made = dict(zip(self._names, (self._new(*each) for each in known), strict=True))
            for name, value in made.items():
                binding.bind_ortvalue_output(name, value)
            self._run(binding, IN_STREAM)
            return made
        for name in self._names:
            binding.bind_output(name, self._memory, self._device)
        self._run(binding, IN_STREAM)
        made = dict(zip(self._names, binding.get_outputs(), strict=True))
        self._outputs[shapes] = [(value.shape(), dtype_of(value)) for value in made.values()]
        return self._copied(made)

    def _bound(self, inputs: Mapping[str, DeviceTensor]) -> Any:
        binding = self._session.io_binding()
        for name, tensor in inputs.items():
            where = (self._memory, self._device, tensor.dtype.type, list(tensor.shape), tensor.pointer)
            binding.bind_input(name, *where)
        return binding

    def _buffers(self, inputs: Mapping[str, DeviceTensor], shapes: Shapes) -> _Buffers:
        """Those of this shape, bound."""
        if shapes not in self._own:
            held = {name: self._new(list(each.shape), each.dtype) for name, each in inputs.items()}
            made = dict(zip(self._names, (self._new(*each) for each in self._outputs[shapes]), strict=True))
            self._own[shapes] = _Buffers(held, made)
        own = self._own[shapes]
        self._binding = self._session.io_binding()
        for name, value in own.inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in own.outputs.items():
            self._binding.bind_ortvalue_output(name, value)
        return own

    def _work(self, own: _Buffers) -> Work:
        """The call that is bound, for who decides about its graph."""

        def outputs() -> list[Array]:
            return [np.array(value.numpy()) for value in own.outputs.values()]

        def spoil() -> None:
            for value in own.outputs.values():
                value.update_inplace(_spoilt(value.shape(), dtype_of(value)))

        enqueue = partial(self._run, self._binding, IN_STREAM)
        return Work(enqueue=enqueue, outputs=outputs, spoil=spoil, capturable=lambda: True)

    def _new(self, shape: list[int], dtype: np.dtype[Any]) -> Any:
        import onnxruntime

        return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, dtype.type, self._memory, self._device)

    def _copied(self, values: Mapping[str, Any]) -> dict[str, Any]:
        made = {name: self._new(value.shape(), dtype_of(value)) for name, value in values.items()}
        sizes = {name: math.prod(value.shape()) * dtype_of(value).itemsize for name, value in values.items()}
        copy_within([(made[name].data_ptr(), value.data_ptr(), sizes[name]) for name, value in values.items()])
        return made


def dtype_of(value: Any) -> np.dtype[Any]:
    """numpy's type of one of ONNX Runtime's tensors."""
    element = value.data_type().removeprefix("tensor(").removesuffix(")")
    named: np.dtype[Any] = np.dtype({"float": "float32", "double": "float64"}.get(element, element))
    return named


def _spoilt(shape: list[int], dtype: np.dtype[Any]) -> Array:
    """Bytes that numbers are not made of."""
    return np.frombuffer(bytes([SPOILT]) * (math.prod(shape) * dtype.itemsize), dtype).reshape(shape)
