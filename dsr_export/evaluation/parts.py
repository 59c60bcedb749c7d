"""The parts of an evaluation: what is drawn and measured at once, kept when it is done, and resampled afterwards.

They depend on the number of pictures alone, so that whoever draws them, and in which order, changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dsr_export.errors import ExportError

ABOUT = 32  # parts: enough for an interval, and few enough for their moments to be kept
GRAIN = 8  # pictures; a part holds a multiple of them


@dataclass(frozen=True)
class Part:
    """The pictures `first` to `first + count - 1`."""

    index: int
    first: int
    count: int


@dataclass(frozen=True)
class Shard:
    """The share `index` (from 1) of `of` shares."""

    index: int
    of: int

    @classmethod
    def parse(cls, text: str, *, option: str = "--shard") -> Shard:
        """From `i/n`. ExportError for anything else."""
        first, _, second = text.partition("/")
        if not (first.isdecimal() and second.isdecimal() and len(text) < 16 and 1 <= int(first) <= int(second)):
            hint = f"with I from 1 to N, for example {option} 2/8"
            raise ExportError(f"{option} {text[:40]!r} is not I/N", hint=hint)
        return cls(int(first), int(second))

    def of_parts(self, parts: Sequence[Part]) -> Sequence[Part]:
        """Those of this share; shares are as equal as parts allow."""
        return parts[self.index - 1 :: self.of]


def parts_of(count: int) -> tuple[Part, ...]:
    """All parts of `count` pictures, in order."""
    size = -(-count // (ABOUT * GRAIN)) * GRAIN
    return tuple(Part(i, first, min(size, count - first)) for i, first in enumerate(range(0, count, size)))
