"""Times on a GPU side by side: from the host and within the device, in the stream and as a CUDA graph."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dsr_export.backends.base import Array
from dsr_export.backends.cuda.replay import Graphs
from dsr_export.progress import Bar
from dsr_export.user_code.imported import described

Place = Literal["host", "device"]
PLACES: tuple[Place, ...] = ("host", "device")
SETTLING = 3
"""Calls before a graph is captured and used; more of them warm the clocks up."""


@dataclass(frozen=True, kw_only=True)
class GpuContestant:
    """One model on a GPU. `open` makes its runner; `graphs` are the ways to launch it that there are.

    What it raises of `may_raise` when it is first called is told in its place: others are compared all the same.
    """

    name: str
    open: Callable[[Graphs], Any]
    graphs: tuple[Graphs, ...]
    may_raise: tuple[type[Exception], ...] = ()


@dataclass(frozen=True, kw_only=True)
class GpuTiming:
    """Milliseconds of a call, from arrays to arrays of the host or within the device; `ratio` is to the first
    contestant's in the same round and the same way (in the stream, where it has no graph), with its 10-90 % range.
    `problem` is why there is no such call."""

    name: str
    place: Place
    graph: bool
    median_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    problem: str | None = None


@dataclass(frozen=True)
class _Entry:
    """One line of the race: a way to call one contestant."""

    name: str
    place: Place
    graphs: Graphs
    runner: Any
    call: Callable[[], object]

    @property
    def way(self) -> tuple[Place, bool]:
        return self.place, self.graphs == "always"

    def problem(self) -> str | None:
        """Of a graph: why the calls were none."""
        states = list(self.runner.replays.of.values()) if self.graphs == "always" else []
        return next((each.problem for each in states if each.problem is not None), None)


def gpu_race(
    contestants: Sequence[GpuContestant],
    feeds: Mapping[str, Array],
    *,
    rounds: int,
    warmup: int,
    progress: Bar,
) -> tuple[list[GpuTiming], dict[str, int | None]]:
    """Times every way once a round on the same `feeds`; each round starts with another one. And by name the bytes of
    the GPU's memory that one runner takes, None where it does not tell.

    Raises:
        ExportError: a contestant that cannot be opened, or that can't run these inputs.
    """
    with ExitStack() as stack:
        entries, memory, failed = _entries(contestants, feeds, stack)
        times = np.zeros((warmup + rounds, len(entries)))
        for i in range(len(times)):
            for j in np.roll(np.arange(len(entries)), i):
                times[i, j] = milliseconds(entries[j].runner, entries[j].call)
            progress(i + 1, len(times))
        problems = [entry.problem() for entry in entries]
    return [*_timings(entries, times[warmup:], problems), *failed], memory


def milliseconds(runner: Any, call: Callable[[], object]) -> float:
    """Between events of the GPU where the runner has them, else by the host's clock: those wait for their end."""
    if hasattr(runner, "milliseconds"):
        return float(runner.milliseconds(call))
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1e3


def _entries(
    contestants: Sequence[GpuContestant], feeds: Mapping[str, Array], stack: ExitStack
) -> tuple[list[_Entry], dict[str, int | None], list[GpuTiming]]:
    entries, memory, failed = [], dict[str, int | None](), list[GpuTiming]()
    for each in contestants:
        for graphs in each.graphs:
            runner = stack.enter_context(each.open(graphs))
            try:
                made, taken = _calls(each.name, graphs, runner, feeds)
            except each.may_raise as error:
                failed += [_failed(each.name, place, graphs, error) for place in PLACES]
                continue
            entries += made
            memory.setdefault(each.name, taken)
    return entries, memory, failed


def _failed(name: str, place: Place, graphs: Graphs, error: Exception) -> GpuTiming:
    told: dict[str, Any] = dict.fromkeys(("median_ms", "p95_ms", "p99_ms", "ratio", "ratio_low", "ratio_high"))
    problem = f"it fails: {described(error)}"
    return GpuTiming(name=name, place=place, graph=graphs == "always", problem=problem, **told)


def _calls(name: str, graphs: Graphs, runner: Any, feeds: Mapping[str, Array]) -> tuple[list[_Entry], int | None]:
    held = {key: runner.upload(array) for key, array in feeds.items()}
    calls: dict[Place, Callable[[], object]] = {
        "host": lambda: runner.infer(dict(feeds)),
        "device": lambda: runner.infer_on_device(held),
    }
    for _ in range(SETTLING):  # what is captured fails no later than now
        for call in calls.values():
            call()
    taken = runner.taken() if hasattr(runner, "taken") else None
    return [_Entry(name, place, graphs, runner, calls[place]) for place in PLACES], taken


def _timings(entries: Sequence[_Entry], times: Array, problems: Sequence[str | None]) -> list[GpuTiming]:
    made = []
    for i, (entry, problem) in enumerate(zip(entries, problems, strict=True)):
        ratios = times[:, i] / times[:, _first(entries, entry)]
        figures = {
            **dict(zip(("median_ms", "p95_ms", "p99_ms"), _marks(times[:, i], 50, 95, 99), strict=True)),
            **dict(zip(("ratio", "ratio_low", "ratio_high"), _marks(ratios, 50, 10, 90), strict=True)),
        }
        told: dict[str, Any] = dict.fromkeys(figures) if problem is not None else figures
        made.append(GpuTiming(name=entry.name, place=entry.place, graph=entry.way[1], problem=problem, **told))
    return made


def _first(entries: Sequence[_Entry], entry: _Entry) -> int:
    """The first contestant's call of the same way; where it has no graph, its call in the stream."""
    own = [each for each in entries if each.name == entries[0].name and each.place == entry.place]
    same = next((each for each in own if each.way == entry.way), own[0])
    return next(i for i, each in enumerate(entries) if each is same)


def _marks(values: Array, *marks: int) -> list[float]:
    return [float(each) for each in np.percentile(values, marks)]
