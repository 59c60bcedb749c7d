"""The page of an evaluation: the verdict, every figure, and pictures from worst to best."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.evaluation.features.extractor import as_rgb
from dsr_export.evaluation.results import Evaluation, ShownPicture
from dsr_export.evaluation.wording import distance, headline, name, ruling_text
from dsr_export.evaluation.wording import figure as figure_text
from dsr_export.html.markup import Markup, element, joined, text
from dsr_export.html.page import Section, Verdict, figure, page, row, table
from dsr_export.html.rasters import data_uri
from dsr_export.images.thumbnails import enlarged

Array = npt.NDArray[Any]
MOST = 48  # pictures


def evaluation_page(found: Evaluation) -> str:
    """The whole document."""
    verdict = Verdict(
        tone="good" if found.passed else "bad", headline=headline(found), details=tuple(map(ruling_text, found.rulings))
    )
    sections = [_figures(found), _pictures(found)]
    reference = "none" if found.reference is None else _title(found.reference)
    facts = [
        ("pictures", str(found.asked.count)),
        ("bundle", _title(found.bundle)),
        ("reference", reference),
        ("seed", str(found.asked.drawn.seed)),
    ]
    return page(f"{found.bundle.manifest.name}: the pictures", verdict, facts, sections, "Made by")


def _title(of: Any) -> str:
    manifest = getattr(of, "manifest", None)
    return f"{of.name}, PyTorch FP32" if manifest is None else f"{manifest.name}, {manifest.precision.upper()}"


def _figures(found: Evaluation) -> Section:
    header = ("", "this bundle", "reference", "difference")
    rows = [
        (
            name(line.metric),
            figure_text(line.value),
            figure_text(line.reference),
            figure_text(line.difference, signed=True),
        )
        for line in found.lines
    ]
    explanation = (
        "Arrows say which way is better. Behind ± is half of a 95 % interval, from resampled parts of the pictures; "
        "that of the difference uses the same pictures on both sides."
    )
    return Section("Figures", explanation, row(figure(table(header, rows)), wide=True))


def _pictures(found: Evaluation) -> Section:
    shown = found.worst(MOST)
    if found.reference is None:
        explanation = "The first pictures of the parts that were measured."
    else:
        explanation = "From worst to best: the reference's picture, this bundle's, and below them how far they differ."
    cells = joined([_cell(each) for each in shown])
    return Section("Pictures", explanation, figure(element("div", cells, style=_GRID)))


_GRID = "display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 14px"


def _cell(shown: ShownPicture) -> Markup:
    sides = [shown.picture] if shown.reference is None else [shown.reference, shown.picture]
    wide = as_rgb(enlarged(np.stack(sides)))
    gap = np.full((wide.shape[1], 2, 3), 255, np.uint8)
    sheet = wide[0] if len(sides) == 1 else np.concatenate([wide[0], gap, wide[1]], axis=1)
    said = distance(shown)
    picture = element("img", src=data_uri(sheet), alt=said, style="max-width: 100%; image-rendering: pixelated")
    return element("div", picture, element("p", text(said), class_="note"))
