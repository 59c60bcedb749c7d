"""The page of a training: the loss, outliers before and after, what the gate does, and samples from the same noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.diagnosis.pages.attention import attention_section
from dsr_export.diagnosis.pages.denoiser import map_section, norm_section, ratio_section
from dsr_export.fitting.compared import Compared, GateUse
from dsr_export.html.charts import Series, heat_map
from dsr_export.html.curves import curves
from dsr_export.html.markup import element
from dsr_export.html.page import Section, Verdict, figure, page, row
from dsr_export.html.rasters import data_uri
from dsr_export.images.thumbnails import enlarged

Array = npt.NDArray[Any]
POINTS = 60  # of the curve of losses


def fit_page(
    title: str, verdict: Verdict, facts: list[tuple[str, str]], losses: list[float], found: Compared | None
) -> str:
    """The whole document. Without `found` it shows the loss alone."""
    sections = [_loss_section(losses)]
    if found is not None:
        shown = found.diagnosis
        sections += [_gate_section(found.gates)] if found.gates else []
        sections += [_picture_section(found.pictures)] if found.pictures is not None else []
        sections += [ratio_section(shown)] if any(run.ratios.any() for run in shown.runs) else []
        sections += [map_section(shown), norm_section(shown), attention_section(shown)]
    return page(title, verdict, facts, sections, "Before: without sites. After: what `build --dsr` takes.")


def _loss_section(losses: list[float]) -> Section:
    parts = np.array_split(np.array(losses), min(POINTS, len(losses)))
    ends = np.cumsum([len(part) for part in parts])
    names = [str(end) for end in ends]
    series = [Series("loss", "b", range(len(parts)), [float(part.mean()) for part in parts])]
    words = f"The mean of {len(parts[0])} steps each." if len(parts[0]) > 1 else "Of every step."
    return Section("Loss", words, row(figure(curves(series, names, x_label="step", y_label="loss"))))


def _gate_section(gates: dict[tuple[int, float], GateUse]) -> Section:
    layers, times = sorted({layer for layer, _ in gates}), sorted({time for _, time in gates}, reverse=True)
    uses = [[gates.get((layer, time), GateUse()) for time in times] for layer in layers]
    changed = np.array([[use.changed / max(use.tokens, 1) for use in each] for each in uses])
    strength = np.array([[use.strength / max(use.changed, 1) for use in each] for each in uses])
    charts = [
        figure(
            heat_map(
                values,
                rows=[str(layer) for layer in layers],
                columns=[f"{time:.2f}" for time in times],
                x_label="time",
                y_label="block",
                highest=float(values.max()),
            ),
            title=title,
        )
        for title, values in (("Tokens changed", changed), ("How far: 1 makes a register's mixture of it", strength))
    ]
    return Section("The gate", "Shares in %, behind each block with a gate, at each time.", row(*charts))


def _picture_section(pictures: Array) -> Section:
    strips = [figure(_strip(each), title=name) for each, name in zip(pictures, ("Before", "After"), strict=True)]
    return Section("Samples", "From the same noise.", row(*strips, wide=True))


def _strip(pictures: Array) -> Any:
    bytes_ = ((pictures.clip(-1, 1) + 1) * 127.5).round().astype(np.uint8).transpose(0, 2, 3, 1)  # [n, H, W, C]
    rgb = np.repeat(bytes_, 3, axis=-1) if bytes_.shape[-1] == 1 else bytes_
    return element("img", src=data_uri(np.concatenate(list(enlarged(rgb)), axis=1)), alt="samples")
