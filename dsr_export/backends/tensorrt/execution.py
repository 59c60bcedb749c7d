"""An engine's one context on one stream: the shapes and addresses it is set to, and its own buffers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from dsr_export.backends.cuda.memory import Block, Pool
from dsr_export.backends.cuda.stream import Stream
from dsr_export.backends.tensorrt.vendor import Vendor
from dsr_export.errors import RunnerError

Shapes = Mapping[str, tuple[int, ...]]


class Execution:
    """`types` are those of its tensors, and `moved` is how often a buffer of its own has moved: what was captured with
    it is then of no use any more."""

    def __init__(self, vendor: Vendor, context: Any, types: Mapping[str, np.dtype[Any]], stream: Stream) -> None:
        self._vendor, self._context, self.types, self.stream = vendor, context, types, stream
        self._shapes: dict[str, tuple[int, ...]] | None = None
        self._addresses: dict[str, int] = {}
        self._own: dict[str, Block] = {}
        self.moved = 0

    def set_shapes(self, shapes: Shapes) -> bool:
        """Of all inputs; whether they are other ones than before. RunnerError where TensorRT refuses them."""
        if self._shapes == shapes:
            return False
        self._shapes = None
        for name, shape in shapes.items():
            self._accepted("set_input_shape", name, shape)
        self._shapes = dict(shapes)
        return True

    def output_shapes(self) -> dict[str, tuple[int, ...]]:
        """As they follow from those of the inputs."""
        assert self._shapes is not None
        made = [name for name in self.types if name not in self._shapes]
        with self._vendor.asked():
            found = {name: tuple(self._context.get_tensor_shape(name)) for name in made}
        for name, shape in found.items():
            if any(size < 0 for size in shape):
                raise RunnerError(f"output '{name}' has the shape {list(shape)}, which depends on data")
        return found

    def nbytes(self, name: str, shape: tuple[int, ...]) -> int:
        return math.prod(shape) * self.types[name].itemsize

    def own_buffers(self, pool: Pool, shapes: Shapes) -> dict[str, int]:
        """Addresses of its own buffers, which grow to the largest shapes seen."""
        for name, shape in shapes.items():
            size, held = self.nbytes(name, shape), self._own.get(name)
            if held is None or held.nbytes < size:
                if held is not None:
                    del self._own[name]
                    held.release()
                    self.moved += 1
                self._own[name] = pool.take(size)
        return {name: self._own[name].pointer for name in shapes}

    def bind(self, addresses: Mapping[str, int]) -> None:
        """Reads and writes there from now on."""
        for name, address in addresses.items():
            if self._addresses.get(name) != address:
                self._addresses.pop(name, None)
                self._accepted("set_tensor_address", name, address)
                self._addresses[name] = address

    def enqueue(self) -> None:
        """Puts the engine's kernels into the stream."""
        self._accepted("execute_async_v3", self.stream.handle)

    def capturable(self) -> bool:
        """Whether TensorRT says that the kernels can be captured; versions that have no such question are tried."""
        ask = getattr(self._context, "is_stream_capturable", None)
        with self._vendor.asked():
            return True if ask is None else bool(ask(self.stream.handle))

    def close(self) -> None:
        """Gives its buffers back, and the context."""
        for block in self._own.values():
            block.release()
        self._own.clear()
        self._context = None

    def _accepted(self, name: str, *arguments: Any) -> None:
        """Has the context do what it says that it has done, or not."""
        with self._vendor.asked():
            done = getattr(self._context, name)(*arguments)
        if not done:
            said = "; ".join(self._vendor.log.errors) or "TensorRT gives no reason"
            raise RunnerError(f"the engine failed: {said}")
