"""Which format each GEMM gets: the cheapest that the output can bear, by one budget of errors over all.

A ladder has a GEMM's formats, the cheapest first, and floats behind the last. GEMMs go up until the budget holds or
nothing is left: first where most noise is taken away for each byte that a weight grows by. A rung that is no better is
left out, and one that is worth less than the next is taken with it: between formats of one size the best is taken.

Steps that cost nothing at all, no byte and no kernel, come first, and some are taken beyond the budget, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dsr_export.parity.decibels import IDENTICAL_DB
from dsr_export.progress import Bar

MARGIN_DB = 1.0  # the calls that are checked here are not those of the parity checks
Formats = Mapping[str, str]
"""GEMM -> the name of its format; those that stay floats are missing."""


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """`formats` of one GEMM, and the SNR in dB of its own output in each: what a better one is worth. `bytes` of its
    weight are what each costs, and behind them floats. `passes` says for which codes of the input take a pass of their
    own over it, as row factors do; None: for none."""

    formats: tuple[str, ...]
    local_db: tuple[float, ...]
    bytes: tuple[int, ...]
    passes: tuple[bool, ...] | None = None

    def costs_pass(self, form: str | None) -> bool:
        """Whether `form` takes one that the first format does not; floats (None) take none."""
        if form is None or self.passes is None:
            return False
        return self.passes[self.formats.index(form)] and not self.passes[0]


@dataclass(frozen=True)
class Verdict:
    """`formats` by GEMM, `kept` the names that stay floats, as they went up; `sensitivity_db` is the output's SNR with
    one GEMM alone in its first format."""

    formats: Formats
    kept: tuple[str, ...]
    snr_db: float
    sensitivity_db: Mapping[str, float]


@dataclass(frozen=True)
class _Step:
    """`name` goes up to `format` (None: floats), which takes `gain` of the output's noise away for `cost` bytes, and
    a pass over its input where it `passes`."""

    name: str
    format: str | None
    gain: float
    cost: int
    passes: bool = False

    @property
    def worth(self) -> float:
        """Noise for each byte; no end of it where bytes are none, or even saved."""
        return self.gain / self.cost if self.cost > 0 else math.inf if self.gain > 0 else 0.0

    @property
    def is_free(self) -> bool:
        """Whether it costs nothing."""
        return self.cost <= 0 < self.gain and not self.passes

    def joined(self, other: _Step) -> _Step:
        """Both of one GEMM at once, where `other` follows."""
        return _Step(self.name, other.format, self.gain + other.gain, self.cost + other.cost, other.passes)


def within_budget(
    ladders: Mapping[str, Ladder],
    measure: Callable[[Formats], float],
    budget_db: float,
    *,
    alone: Callable[[str], float],
    rank: Mapping[str, float] | None,
    bar: Bar,
    beyond_db: float = 0.0,
) -> Verdict:
    """Ranks steps, and takes those of most worth until the budget holds with a margin; all of them, if need be.

    Of those that cost nothing, as many as are to leave `beyond_db` less noise than the first formats do, whether the
    budget needs them or not. `alone` measures one GEMM; `rank` (name -> dB) spares a large model the measurement of
    each one alone.
    """
    wanted = budget_db + MARGIN_DB
    sensitivity = dict(rank) if rank is not None else _sensitivity(list(ladders), alone, bar)
    noise = {name: 10 ** (-sensitivity[name] / 10) for name in ladders}
    steps, whole = _steps(ladders, noise), sum(noise.values())
    count = _free_count(whole, steps, beyond_db)
    formats = _taken(ladders, steps[:count])
    reached = measure(formats)
    while reached < wanted and count < len(steps):
        count = _next_count(whole, [step.gain for step in steps], count, reached, wanted)
        formats = _taken(ladders, steps[:count])
        reached = measure(formats) if formats else IDENTICAL_DB
    kept = tuple(step.name for step in steps[:count] if step.format is None)
    return Verdict(formats, kept, reached, sensitivity)


def _sensitivity(names: Sequence[str], alone: Callable[[str], float], bar: Bar) -> dict[str, float]:
    found = {}
    for i, name in enumerate(names):
        found[name] = alone(name)
        bar(i + 1, len(names))
    return found


def _steps(ladders: Mapping[str, Ladder], noise: Mapping[str, float]) -> list[_Step]:
    """All of them in their order: what is free, then of most worth first, and of equal ones that of most noise."""
    steps = [step for name, ladder in ladders.items() for step in _climb(name, ladder, noise[name])]
    return sorted(steps, key=lambda step: (not step.is_free, -step.worth, -step.gain))


def _free_count(whole: float, steps: Sequence[_Step], beyond_db: float) -> int:
    """How many of the first steps to take for `beyond_db`: none that costs anything."""
    left, wanted, count = whole, whole * 10 ** (-beyond_db / 10), 0
    while left > wanted and count < len(steps) and steps[count].is_free:
        left, count = left - steps[count].gain, count + 1
    return count


def _climb(name: str, ladder: Ladder, noise: float) -> list[_Step]:
    """Of one GEMM, each of less worth than the one before: a better format of `d` dB at its own output leaves so much
    less of its noise at the model's.

    Nothing for a rung that is no better than those below: nothing is won there, and what is not made is not measured.
    """
    steps: list[_Step] = []
    left, best, size = noise, ladder.local_db[0], ladder.bytes[0]
    better = zip(ladder.formats[1:], ladder.local_db[1:], ladder.bytes[1:-1], strict=True)
    for form, reached, bytes_there in (*better, (None, math.inf, ladder.bytes[-1])):
        if form is not None and reached <= best:
            continue
        rest = 0.0 if form is None else noise * 10 ** ((ladder.local_db[0] - reached) / 10)
        step = _Step(name, form, left - rest, bytes_there - size, ladder.costs_pass(form))
        while steps and step.worth >= steps[-1].worth:
            step = steps.pop().joined(step)
        steps.append(step)
        left, best, size = rest, reached, bytes_there
    return steps


def _taken(ladders: Mapping[str, Ladder], steps: Sequence[_Step]) -> dict[str, str]:
    """The format of each GEMM after these steps."""
    now: dict[str, str | None] = {name: ladder.formats[0] for name, ladder in ladders.items()}
    now |= {step.name: step.format for step in steps}
    return {name: form for name, form in now.items() if form is not None}


def _next_count(whole: float, gains: Sequence[float], count: int, reached: float, wanted: float) -> int:
    """How many steps to take next: errors are taken to add up, and what they add up to now is known."""
    left = whole - np.concatenate([[0.0], np.cumsum(gains)])  # after so many
    scale = 10 ** (-reached / 10) / max(left[count], 1e-30)
    allowed = 10 ** (-wanted / 10) / scale
    enough = int(np.argmax(left <= allowed)) if (left <= allowed).any() else len(gains)
    return min(max(enough, count + 1), len(gains))
