"""`I/N`: one of N shares of a list of things that can be done apart, as a job array does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from dsr_export.errors import ExportError

Item = TypeVar("Item")


@dataclass(frozen=True)
class Share:
    """The share `index` (from 1) of `of` shares."""

    index: int
    of: int

    @classmethod
    def parse(cls, text: str, *, option: str) -> Share:
        """From `i/n`, as `option` was given. ExportError for anything else."""
        first, _, second = text.partition("/")
        if not (first.isdecimal() and second.isdecimal() and len(text) < 16 and 1 <= int(first) <= int(second)):
            hint = f"with I from 1 to N, for example {option} 2/8"
            raise ExportError(f"{option} {text[:40]!r} is not I/N", hint=hint)
        return cls(int(first), int(second))

    def taken(self, items: Sequence[Item]) -> Sequence[Item]:
        """Those of this share; shares are as equal as the items allow."""
        return items[self.index - 1 :: self.of]

    def run(self, count: int) -> range:
        """Neighbours of `count` things; none where there are fewer things than shares."""
        return range(count * (self.index - 1) // self.of, count * self.index // self.of)

    def __str__(self) -> str:
        return f"share-{self.index}-of-{self.of}"
