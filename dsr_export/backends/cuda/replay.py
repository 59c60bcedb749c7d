"""CUDA graphs of a model: captured once for each shape, launched where that is measured faster, and right.

A graph holds the addresses and the shapes that its context was set to when it was captured. It is launched only while
the context is in that state: after a call with other shapes, one call in the stream sets it again, and the graph's
outputs are compared with that call's before it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from dsr_export.errors import RunnerError

Graphs = Literal["auto", "always", "never"]
"""Whether graphs are used: where they are faster, wherever they can be, or nowhere."""
OTHER_NUMBERS = "the captured graph makes other numbers than the engine"
SPOILT = 0xFF
"""A byte that numbers are not made of: a NaN of no computation, and labels below zero."""
RACES = 5
SETTLES_AFTER = 1
"""Calls in the stream: kernels are loaded, and a shape that is met once is captured for nothing."""


@dataclass
class Replay:
    """What is known of one shape. `problem` is why there is no graph, `slower` why it is not used."""

    graph: int | None = None
    problem: str | None = None
    slower: str | None = None
    stream_ms: float | None = None
    graph_ms: float | None = None
    calls: int = 0
    settled: bool = False

    @property
    def used(self) -> bool:
        return self.settled and self.graph is not None and self.slower is None

    def left(self) -> None:
        """The context is set to other shapes."""
        self.calls, self.settled = 0, False


@dataclass(frozen=True, kw_only=True)
class Work:
    """One call of an engine, bound to buffers: `enqueue` puts it into the stream, `outputs` waits for it and reads what
    it made, `spoil` overwrites that, so that whoever does not make it again is found out."""

    enqueue: Callable[[], None]
    outputs: Callable[[], list[np.ndarray]]
    spoil: Callable[[], None]
    capturable: Callable[[], bool]


class Launcher(Protocol):
    """What captures and launches; see `Stream`, and a session of ONNX Runtime's."""

    def captured(self, work: Callable[[], None]) -> int: ...

    def launch(self, graph: int) -> None: ...

    def drop(self, graph: int) -> None: ...

    def milliseconds(self, work: Callable[[], None]) -> float: ...


@dataclass
class Replays:
    """Those of all shapes of one model. `problem` is why it can have none, whatever the shapes."""

    stream: Launcher
    mode: Graphs
    say: Callable[[str], None]
    problem: str | None = None
    of: dict[tuple[tuple[int, ...], ...], Replay] = field(default_factory=dict)

    def enter(self, shapes: Sequence[tuple[int, ...]]) -> Replay:
        """The state of the shapes that the context was just set to."""
        for each in self.of.values():
            each.left()
        return self.of.setdefault(tuple(shapes), Replay(problem=self.problem))

    def due(self, state: Replay) -> bool:
        """Whether the next call decides if a graph is used."""
        hopeless = self.mode == "never" or state.problem is not None or state.slower is not None
        return not (hopeless or state.settled) and state.calls >= SETTLES_AFTER

    def settle(self, state: Replay, work: Work) -> None:
        """Makes one call in the stream, and decides by it; whatever that is, its outputs are those of the engine."""
        work.enqueue()
        expected = work.outputs()
        if state.graph is None:
            self._capture(state, work)
        if state.graph is not None:
            self._prove(state, state.graph, work, expected)
        state.settled = True

    def forget(self) -> None:
        """Destroys all graphs: their buffers have moved, or the engine is closed."""
        for each in self.of.values():
            if each.graph is not None:
                self.stream.drop(each.graph)
        self.of.clear()

    def _capture(self, state: Replay, work: Work) -> None:
        if not work.capturable():
            self._drop(state, "TensorRT says that this engine cannot be captured")
            return
        try:
            state.graph = self.stream.captured(work.enqueue)
        except RunnerError as error:
            self._drop(state, error.message)

    def _prove(self, state: Replay, graph: int, work: Work, expected: list[np.ndarray]) -> None:
        """The graph is launched for the first time, or for the first time in this state of the context."""
        try:
            problem = None if self._agrees(graph, work, expected) else OTHER_NUMBERS
            if problem is None and self.mode == "auto" and state.graph_ms is None:
                self._race(state, graph, work)
        except RunnerError as error:
            problem = error.message
        if problem is not None:
            self._drop(state, problem)
            work.enqueue()  # which fails as well where it was not the graph

    def _agrees(self, graph: int, work: Work, expected: list[np.ndarray]) -> bool:
        work.spoil()
        self.stream.launch(graph)
        return all(a.tobytes() == b.tobytes() for a, b in zip(expected, work.outputs(), strict=True))

    def _race(self, state: Replay, graph: int, work: Work) -> None:
        """In turns, so that both meet the same clocks; medians."""
        times = [
            (self.stream.milliseconds(work.enqueue), self.stream.milliseconds(lambda: self.stream.launch(graph)))
            for _ in range(RACES)
        ]
        state.stream_ms, state.graph_ms = (float(np.median(each)) for each in zip(*times, strict=True))
        if state.graph_ms >= state.stream_ms:
            state.slower = f"it takes {state.graph_ms:.3f} ms, and {state.stream_ms:.3f} ms in the stream"
            self._tell(state.slower)

    def _drop(self, state: Replay, problem: str) -> None:
        state.problem = problem
        if state.graph is not None:
            self.stream.drop(state.graph)
            state.graph = None
        self._tell(problem)

    def _tell(self, reason: str) -> None:
        self.say(f"no CUDA graph is used: {reason}")
