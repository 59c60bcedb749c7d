"""The programs that a TensorRT-RTX plan holds as text: one for the engine, and one for each fused kernel's fallback.

The form is undocumented, and may change with any version. Each program has sections, `header`, `descriptors`, `main`
and, with run-time sizes, `shape_main`; behind them lie kernels, which nothing here reads.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass

Plan = bytes | memoryview | mmap.mmap
ENGINE, FALLBACK = 5, 4
"""The two versions in use: of an engine's program, and of a fused kernel's own."""
_HEADER = re.compile(rb"header \{\n  version = (\d+)\n")
_SECTION = re.compile(rb"(descriptors|main|shape_main) \{[ ]*\n")
_END = re.compile(rb"^\}\n", re.MULTILINE)
_WINDOW, _OVERLAP = 1 << 24, 64  # bytes; a header's first lines are shorter
_LONGEST = 1 << 26  # bytes of one section: a thousand times what a large model has


class UnreadableSchedule(Exception):
    """The text of a plan is not of the form that is known here; says where it is not."""


@dataclass(frozen=True)
class Program:
    """The lines of each section."""

    version: int
    sections: dict[str, tuple[str, ...]]

    def lines(self, section: str) -> tuple[str, ...]:
        """Empty for a section that the program lacks."""
        return self.sections.get(section, ())

    def header_names(self, key: str) -> list[str]:
        """The quoted names in a list of the header. Raises UnreadableSchedule where there is no such list."""
        found = [line for line in self.lines("header") if line.startswith(f"  {key}={{")]
        if len(found) != 1:
            raise UnreadableSchedule(f"the header has no list of {key}")
        return re.findall(r'"([^"]*)"', found[0])


def programs(plan: Plan) -> Iterator[Program]:
    """All programs, in order. Memory is taken for their text alone, not for the plan.

    Raises:
        UnreadableSchedule: a section without an end, or text that is none.
    """
    for found in _headers(plan):
        start, sections = found.start(), {}
        sections["header"], end = _section(plan, found.start() + len(b"header {\n"), "header")
        while (opened := _SECTION.match(plan, end)) is not None:
            name = opened[1].decode()
            if name in sections:
                raise UnreadableSchedule(f"a second {name} in the program at byte {start}")
            sections[name], end = _section(plan, opened.end(), name)
        yield Program(int(found[1]), sections)


def _headers(plan: Plan) -> Iterator[re.Match[bytes]]:
    """Where programs begin. Of a mapped file no more than a window stays in memory at a time."""
    for start in range(0, len(plan), _WINDOW):
        ends = start + _WINDOW  # a header that begins behind it is the next window's
        yield from (found for found in _HEADER.finditer(plan, start, ends + _OVERLAP) if found.start() < ends)
        if isinstance(plan, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            plan.madvise(mmap.MADV_DONTNEED, start, min(_WINDOW, len(plan) - start))


def _section(plan: Plan, start: int, name: str) -> tuple[tuple[str, ...], int]:
    """Its lines, and where it ends."""
    end = _END.search(plan, start, start + _LONGEST)
    if end is None:
        raise UnreadableSchedule(f"the section {name} at byte {start} has no end")
    try:
        text = bytes(plan[start : end.start()]).decode()
    except UnicodeDecodeError as error:
        raise UnreadableSchedule(f"the section {name} at byte {start} is no text") from error
    return tuple(line for line in text.split("\n") if line.strip()), end.end()
