"""Figures of an evaluation in words, the same in the terminal, on the page and in JUnit."""

from __future__ import annotations

import math

from dsr_export.evaluation.gate import Ruling
from dsr_export.evaluation.metrics import Metric
from dsr_export.evaluation.pair_figures import psnr
from dsr_export.evaluation.results import Evaluation, ShownPicture
from dsr_export.evaluation.summary import Interval, Line
from dsr_export.reports.figures import DASH


def figure(interval: Interval | None, *, signed: bool = False) -> str:
    """A value and half the width of its interval, such as `12.41 ± 0.30`; a dash for none."""
    if interval is None:
        return DASH
    if math.isinf(interval.value):
        return "equal"  # a ratio of peak and noise without noise
    sign, half = "+" if signed else "", interval.half_width
    if half is None:
        return f"{interval.value:{sign}.6g}"
    return f"{interval.value:{sign}.{_decimals(half)}f} ± {half:.2g}"


def _decimals(half_width: float) -> int:
    """As many as say something beside it: two of its own digits."""
    return 4 if half_width == 0 else min(max(1 - math.floor(math.log10(half_width)), 0), 8)


def distance(shown: ShownPicture) -> str:
    """Which picture, and how far it is from the reference's."""
    if shown.distance is None:
        return f"image {shown.index}"
    if shown.by == "lpips":
        return f"image {shown.index}: LPIPS {shown.distance:.3g}"
    return f"image {shown.index}: " + (f"{psnr(shown.distance):.1f} dB" if shown.distance else "equal")


def name(metric: Metric) -> str:
    """With which way is better."""
    return f"{metric.title} {'↑' if metric.higher else '↓'}"


def line_text(line: Line) -> str:
    """One line for the terminal."""
    said = f"{name(line.metric)}: {figure(line.value)}"
    if line.reference is not None:
        said += f", reference {figure(line.reference)}, difference {figure(line.difference, signed=True)}"
    return said


def ruling_text(ruling: Ruling) -> str:
    """What a limit came to."""
    asked = "at most" if ruling.limit.side == "max" else "at least"
    held = f"holds: {ruling.value:.6g} is" if ruling.passed else f"fails: {ruling.value:.6g} is not"
    return f"{ruling.limit.said} {held} {asked} {ruling.bound:.6g}"


def headline(found: Evaluation) -> str:
    """The verdict in one sentence."""
    if not found.rulings:
        return "Measured; no limit was given"
    missed = [ruling for ruling in found.rulings if not ruling.passed]
    if missed:
        return f"{len(missed)} of {len(found.rulings)} limits fail"
    return "The limit holds" if len(found.rulings) == 1 else f"All {len(found.rulings)} limits hold"


def lines(found: Evaluation) -> list[str]:
    """Everything, for the terminal."""
    same = found.identical
    pairs = [] if same is None else [f"{same} of {found.asked.count} pictures equal the reference's to the last bit"]
    return [
        f"{found.asked.count} pictures, seed {found.asked.drawn.seed}; ± is half of a 95 % interval",
        *map(line_text, found.lines),
        *pairs,
        *map(ruling_text, found.rulings),
    ]
