"""The parts of an evaluation: what is drawn and measured at once, kept when it is done, and resampled afterwards.

They depend on the number of pictures alone, so that whoever draws them, and in which order, changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

ABOUT = 32  # parts: enough for an interval, and few enough for their moments to be kept
GRAIN = 8  # pictures; a part holds a multiple of them


@dataclass(frozen=True)
class Part:
    """The pictures `first` to `first + count - 1`."""

    index: int
    first: int
    count: int


def parts_of(count: int) -> tuple[Part, ...]:
    """All parts of `count` pictures, in order."""
    size = -(-count // (ABOUT * GRAIN)) * GRAIN
    return tuple(Part(i, first, min(size, count - first)) for i, first in enumerate(range(0, count, size)))
