"""All receipts at a glance: in the terminal, as JSON, Markdown, and as a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from dsr_export.fleet.receipts import Receipt
from dsr_export.html.page import Section, Verdict, figure, page, row, table
from dsr_export.reports.figures import DASH, number
from dsr_export.reports.wording import file_size

HEADER = ("cell", "verdict", "lowest SNR", "bundle", "launches", "moved", "seconds")
PARITY_FAILED, NOT_BUILT = 3, 1


def exit_code(receipts: Sequence[Receipt]) -> int:
    """3 where a cell failed its parity, else 1 where one could not be built, else 0."""
    verdicts = {receipt.verdict for receipt in receipts}
    if "parity failed" in verdicts:
        return PARITY_FAILED
    return NOT_BUILT if "not built" in verdicts else 0


def summary_dict(receipts: Sequence[Receipt]) -> dict[str, Any]:
    """JSON values."""
    return {"passed": exit_code(receipts) == 0, "cells": [asdict(receipt) for receipt in receipts]}


def summary_lines(receipts: Sequence[Receipt]) -> list[str]:
    """A table for the terminal, and why cells were not built."""
    rows = [HEADER, *map(_row, receipts)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [*lines, *(f"{each.cell}: {each.error}" for each in receipts if each.error), verdict(receipts)]


def summary_markdown(receipts: Sequence[Receipt]) -> str:
    """A table for a CI's summary."""
    rows = [HEADER, ["---"] * len(HEADER), *map(_row, receipts)]
    lines = [f"| {' | '.join(map(_plain, row))} |" for row in rows]
    reasons = [f"- {_plain(each.cell)}: {_plain(each.error)}" for each in receipts if each.error]
    return "\n".join([f"### {verdict(receipts)}", "", *lines, "", *reasons]) + "\n"


def summary_page(receipts: Sequence[Receipt]) -> str:
    """The whole document."""
    code = exit_code(receipts)
    reasons = tuple(f"{each.cell}: {each.error}" for each in receipts if each.error)
    shown = Verdict(tone="good" if code == 0 else "bad", headline=verdict(receipts), details=reasons)
    cells = row(figure(table(HEADER, [_row(each) for each in receipts])), wide=True)
    explanation = "The lowest SNR is that of all comparisons with FP32 PyTorch; launches and bytes are one engine's."
    return page("Builds", shown, [("cells", str(len(receipts)))], [Section("Cells", explanation, cells)], "Made by")


def verdict(receipts: Sequence[Receipt]) -> str:
    """One sentence."""
    counts = {name: sum(each.verdict == name for each in receipts) for name in ("passed", "parity failed", "not built")}
    said = [f"{count} {name}" for name, count in counts.items() if count]
    return f"{len(receipts)} cells: {', '.join(said) or 'none'}"


def _row(receipt: Receipt) -> tuple[str, ...]:
    launches = ", ".join(str(count) for count in receipt.launches.values()) or DASH
    moved = ", ".join(f"{size / 1e6:.1f} MB" for size in receipt.moved_bytes.values()) or DASH
    size = DASH if receipt.bundle_bytes is None else file_size(receipt.bundle_bytes)
    snr = number(receipt.snr_db, ".1f", " dB")
    return receipt.cell, receipt.verdict, snr, size, launches, moved, f"{receipt.seconds:.0f}"


def _plain(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
