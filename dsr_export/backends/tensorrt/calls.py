"""One call of an engine after another: in the stream, or as a captured graph where that was found better."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dsr_export.backends.base import Array
from dsr_export.backends.cuda.device_tensor import DeviceTensor
from dsr_export.backends.cuda.memory import Pool
from dsr_export.backends.cuda.replay import SPOILT, Replay, Replays, Work
from dsr_export.backends.tensorrt.execution import Execution, Shapes


class Calls:
    """`own` are the addresses of the context's own buffers for the shapes that are set."""

    def __init__(self, run: Execution, replays: Replays, pool: Pool) -> None:
        self.run, self.replays, self.own = run, replays, dict[str, int]()
        self._pool, self._state, self._entered = pool, Replay(), False

    def set_shapes(self, shapes: Shapes) -> dict[str, tuple[int, ...]]:
        """Those of the inputs; returns them, and those of the outputs that follow.

        Whatever fails on the way, the next call finds no graph that was captured with buffers or shapes of before.
        """
        if self.run.set_shapes(shapes):
            self._entered = False
        whole = {**shapes, **self.run.output_shapes()}
        self._move(whole)
        if not self._entered:
            self._state, self._entered = self.replays.enter(list(shapes.values())), True
        return whole

    def _move(self, shapes: Shapes) -> None:
        """Has buffers for these shapes; graphs of any that went on the way are destroyed."""
        moved = self.run.moved
        try:
            self.own = self.run.own_buffers(self._pool, shapes)
        finally:
            if self.run.moved != moved:
                self.replays.forget()
                self._entered = False

    def make(self) -> None:
        """One call from the context's own buffers to its own buffers."""
        state = self._state
        if state.used and state.graph is not None:
            self.run.stream.launch(state.graph)
            return
        self.run.bind(self.own)
        if self.replays.due(state):
            self.replays.settle(state, self._work())
        else:
            self.run.enqueue()
        state.calls += 1

    def make_on_device(self, inputs: Mapping[str, DeviceTensor], outputs: Mapping[str, DeviceTensor]) -> None:
        """One call from and to these tensors: where they lie, unless a graph is used, whose addresses are its own."""
        if not (self._state.used or self.replays.due(self._state)):
            self.run.bind({name: each.pointer for name, each in (*inputs.items(), *outputs.items())})
            self.run.enqueue()
            self._state.calls += 1
            return
        for name, each in inputs.items():
            self.run.stream.within_device(self.own[name], each.pointer, each.nbytes)
        self.make()
        for name, each in outputs.items():
            self.run.stream.within_device(each.pointer, self.own[name], each.nbytes)

    def read(self, outputs: dict[str, Array]) -> dict[str, Array]:
        """Fills the arrays from the context's own buffers, and waits for it."""
        for name, array in outputs.items():
            self.run.stream.to_host(array, self.own[name])
        self.run.stream.finish()
        return outputs

    def _work(self) -> Work:
        """The call that is bound, for who decides about its graph."""
        run, shapes = self.run, self.run.output_shapes()

        def outputs() -> list[Array]:
            return list(self.read({name: np.empty(shape, run.types[name]) for name, shape in shapes.items()}).values())

        def spoil() -> None:
            for name, shape in shapes.items():
                run.stream.fill(self.own[name], run.nbytes(name, shape), SPOILT)

        return Work(enqueue=run.enqueue, outputs=outputs, spoil=spoil, capturable=run.capturable)
