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
_HEADER = re.compile(rb"header \{\n  version = (\d{1,9})\n")
_SECTION = re.compile(rb"(descriptors|main|shape_main) \{[ ]*\n")
_END = re.compile(rb"^\}\n", re.MULTILINE)
_WINDOW, _OVERLAP = 1 << 24, 64  # bytes; a header's first lines are shorter
_MOST_TEXT, _MOST_LINES = 1 << 25, 1 << 19  # of all programs: sixty times what a model of 100 launches has
_LONGEST_LINE = 1 << 17
RTX_TAG = b"vtrt"
"""What a plan of TensorRT-RTX begins with."""


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
        UnreadableSchedule: a section without an end, text that is none or more than any model has, or a program in
            another.
    """
    end, left = 0, _Left()
    for found in _headers(plan):
        start, sections = found.start(), {}
        if start < end:
            raise UnreadableSchedule(f"the program at byte {start} begins within another")
        sections["header"], end = _section(plan, found.start() + len(b"header {\n"), "header", left)
        while (opened := _SECTION.match(plan, end)) is not None:
            name = opened[1].decode()
            if name in sections:
                raise UnreadableSchedule(f"a second {name} in the program at byte {start}")
            sections[name], end = _section(plan, opened.end(), name, left)
        yield Program(int(found[1]), sections)


def _headers(plan: Plan) -> Iterator[re.Match[bytes]]:
    """Where programs begin. Of a mapped file no more than a window stays in memory at a time."""
    for start in range(0, len(plan), _WINDOW):
        ends = start + _WINDOW  # a header that begins behind it is the next window's
        yield from (found for found in _HEADER.finditer(plan, start, ends + _OVERLAP) if found.start() < ends)
        if isinstance(plan, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            plan.madvise(mmap.MADV_DONTNEED, start, min(_WINDOW, len(plan) - start))


@dataclass
class _Left:
    """What the text of all programs may still have."""

    text: int = _MOST_TEXT
    lines: int = _MOST_LINES

    def take(self, text: str, name: str) -> None:
        self.text, self.lines = self.text - len(text), self.lines - text.count("\n")
        if self.lines < 0 or max(map(len, text.split("\n"))) > _LONGEST_LINE:
            raise UnreadableSchedule(f"the section {name} has more or longer lines than any model's")


def _section(plan: Plan, start: int, name: str, left: _Left) -> tuple[tuple[str, ...], int]:
    """Its lines, and where it ends."""
    end = _END.search(plan, start, start + left.text)
    if end is None:
        raise UnreadableSchedule(f"the section {name} at byte {start} has no end")
    try:
        text = bytes(plan[start : end.start()]).decode()
    except UnicodeDecodeError as error:
        raise UnreadableSchedule(f"the section {name} at byte {start} is no text") from error
    left.take(text, name)
    return tuple(line for line in text.split("\n") if line.strip()), end.end()
