"""`diff --html`: two bundles on one page, and side by side what their engines do in each block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import Any

from dsr_export.diff.engine_pairs import EnginePair, engine_pairs
from dsr_export.diff.schedules import schedule_changes
from dsr_export.diff.text import diff_lines
from dsr_export.html.cells import bar_cell, name_cell, rich_table
from dsr_export.html.markup import Markup, element, joined, text
from dsr_export.html.page import Section, Verdict, figure, page, row
from dsr_export.reports.figures import DASH, is_known, known, number, share
from dsr_export.reports.wording import file_size

Json = Mapping[str, Any]


def diff_page(found: Json) -> str:
    """The whole document, of what `diff_bundles` found."""
    worse, same = found["regressions"], found["identical"]
    names = [PurePath(found[side]).name for side in "ab"]
    headline = "identical, byte for byte" if same else "B is worse than A" if worse else "no regression"
    verdict = Verdict(tone="bad" if worse else "good", headline=headline, details=tuple(worse))
    sections = list(_sections(found)) if not same else []
    listed = element("pre", text("\n".join(diff_lines(found))))
    sections.append(Section("What differs", "As the command says it, ten of each kind; --json has all.", listed))
    return page(f"{names[0]} and {names[1]}", verdict, [("A", names[0]), ("B", names[1])], sections, "Made by")


def _sections(found: Json, prefix: str = "") -> Iterator[Section]:
    for pair in (*engine_pairs(found["engines"]), *engine_pairs(found["step_engines"])):
        said = "; ".join(schedule_changes(pair.a, pair.b))
        source = "Read from the plans of A and B, or from what TensorRT tells of them; nothing was run."
        explanation = f"{source} B against A: {said}."
        yield Section(f"What the engines do: {prefix}{pair.name}", explanation, _drawn(pair))
    for role, part in found["components"].items():
        if not part["identical"]:
            yield from _sections(part, f"{role}, ")


def _drawn(pair: EnginePair) -> Markup:
    return joined([row(_blocks(pair), wide=True), *([row(_estimates(pair), wide=True)] if pair.comparable else [])])


def _blocks(pair: EnginePair) -> Markup:
    """A line for each block, both sides in each cell."""
    blocks = pair.blocks()
    most = max(known(_of(side, "moved_bytes") for _, *sides in blocks for side in sides), default=0.0)
    cells = [
        [
            name_cell(str(name or "of several blocks, or of none")),
            _both(text(number(_of(side, "launches"), "d")) for side in (a, b)),
            _both(_bytes(_of(side, "moved_bytes"), most) for side in (a, b)),
            text(_ratio(_of(a, "moved_bytes"), _of(b, "moved_bytes"))),
            _both(text(_types(side)) for side in (a, b)),
        ]
        for name, a, b in blocks
    ]
    caption = (
        "A above B. Bytes are those that kernels read and write; products compute in the types named, one kernel each."
    )
    header = ("block", "launches", "bytes", "B over A", "products compute in")
    return figure(rich_table(header, cells), title="Block by block", caption=caption)


def _estimates(pair: EnginePair) -> Markup:
    rows = [
        [
            text(device),
            *(text(number(side["graph_ms"], ".3g", " ms")) for side in (a, b)),
            text(_ratio(a["graph_ms"], b["graph_ms"])),
        ]
        for device, a, b in pair.devices()
    ]
    caption = "Estimates from the launches, as a replayed CUDA graph; not measurements."
    title = f"Estimated time at batch {number(pair.a['batch'], 'd')}"
    return figure(rich_table(("device", "A", "B", "B over A"), rows), title=title, caption=caption)


def _both(cells: Iterable[Markup]) -> Markup:
    first, second = cells
    return joined([first, element("br"), second])


def _bytes(size: Any, most: float) -> Markup:
    return bar_cell(share(size, most), file_size(size))


def _of(side: Json | None, key: str) -> Any:
    return None if side is None else side[key]


def _types(side: Json | None) -> str:
    told = [] if side is None else [f"{kind} {number(count, 'd')}" for kind, count in side["computes"].items()]
    return ", ".join(told) or DASH


def _ratio(a: Any, b: Any) -> str:
    return f"{b / a:.2f}x" if is_known(a) and is_known(b) and a else DASH
