"""Which format each GEMM gets: the cheapest that the output can bear, by one budget of errors over all.

A ladder has a GEMM's formats, the cheapest first, and floats behind the last. The worst GEMMs go up one rung, until the
budget holds or nothing is left; those of one rung before those of the next. A rung that is no better is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from dsr_export.parity.decibels import IDENTICAL_DB
from dsr_export.progress import Bar

MARGIN_DB = 1.0  # the calls that are checked here are not those of the parity checks
Formats = Mapping[str, str]
"""GEMM -> the name of its format; those that stay floats are missing."""


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """`formats` of one GEMM, and the SNR in dB of its own output in each: what a better one is worth."""

    formats: tuple[str, ...]
    local_db: tuple[float, ...]


@dataclass(frozen=True)
class Verdict:
    """`formats` by GEMM, `kept` the names that stay floats, worst first; `sensitivity_db` is the output's SNR with one
    GEMM alone in its first format."""

    formats: Formats
    kept: tuple[str, ...]
    snr_db: float
    sensitivity_db: Mapping[str, float]


@dataclass(frozen=True)
class _Step:
    """`name` goes up to `format` (None: floats), which takes `gain` of the output's noise away."""

    name: str
    format: str | None
    gain: float


def within_budget(
    ladders: Mapping[str, Ladder],
    measure: Callable[[Formats], float],
    budget_db: float,
    *,
    alone: Callable[[str], float],
    rank: Mapping[str, float] | None,
    bar: Bar,
) -> Verdict:
    """Ranks GEMMs, and lets the worst go up until the budget holds with a margin; all of them, if need be.

    `alone` measures one GEMM; `rank` (name -> dB) spares a large model the measurement of each one alone.
    """
    wanted = budget_db + MARGIN_DB
    sensitivity = dict(rank) if rank is not None else _sensitivity(list(ladders), alone, bar)
    noise = {name: 10 ** (-sensitivity[name] / 10) for name in ladders}
    steps, whole = _steps(ladders, noise), sum(noise.values())
    formats = {name: ladder.formats[0] for name, ladder in ladders.items()}
    count, reached = 0, measure(formats)
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
    """All of them in their order: rung by rung, and on each the GEMM of most noise first."""
    worst_first = sorted(ladders, key=lambda name: -noise[name])
    climbs = [_climb(name, ladders[name], noise[name]) for name in worst_first]
    return [step for rung in zip_longest(*climbs) for step in rung if step is not None]


def _climb(name: str, ladder: Ladder, noise: float) -> list[_Step | None]:
    """Of one GEMM: a better format of `d` dB at its own output leaves so much less of its noise at the model's.

    None for a rung that is no better than those below: nothing is won there, and what is not made is not measured.
    """
    steps: list[_Step | None] = []
    left, best = noise, ladder.local_db[0]
    for form, reached in zip(ladder.formats[1:], ladder.local_db[1:], strict=True):
        if reached <= best:
            steps.append(None)
            continue
        rest = noise * 10 ** ((ladder.local_db[0] - reached) / 10)
        steps.append(_Step(name, form, left - rest))
        left, best = rest, reached
    return [*steps, _Step(name, None, left)]


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
