"""The part of a denoiser's page about the attention that tokens receive."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.diagnosis.denoiser import DenoiserDiagnosis
from dsr_export.diagnosis.pages.run_names import SHORT, STYLES, run_name
from dsr_export.html.charts import Series, legend, lines
from dsr_export.html.markup import Markup, joined
from dsr_export.html.page import Section, figure, row
from dsr_export.html.rasters import scale_bar, token_maps

Array = npt.NDArray[Any]


def attention_section(found: DenoiserDiagnosis) -> Section:
    """Maps of every block, every token of one block, and the outlier positions over all blocks."""
    means = [_comparable(found, run.measured.attention.means) for run in found.runs]
    layers = [layer for layer in range(len(found.limits)) if all(m[layer] is not None for m in means)]
    if not layers:
        return Section("Attention received", "This model's attention could not be observed.", Markup(""))
    picked = max(layers, key=lambda layer: _shift(means[0][layer], means[-1][layer]))
    series = [
        Series(run_name(run), STYLES[run.name], range(len(mean[picked])), list(mean[picked]))  # type: ignore[arg-type]
        for run, mean in zip(found.runs, means, strict=True)
    ]
    chart = lines(series, x_label=_row_words(found, series[0]), y_label="attention, even share = 1")
    over_layers = [
        Series(run_name(run), STYLES[run.name], layers, [_received(found, mean, layer) for layer in layers])
        for run, mean in zip(found.runs, means, strict=True)
    ]
    share = lines(over_layers, x_label="block", y_label="mean attention received")
    where = "the outlier positions" if found.outlier_layers else "the most attended token"
    where_most = ", where replacement changes most" if len(found.runs) > 1 else ""
    words = (
        "The mean over heads and queries of what each token receives; 1 is an even share. A block sees what the blocks "
        "before it made, so an effect shows one block behind its site."
    )
    body = [
        _attention_maps(found, layers),
        legend(series),
        row(
            figure(chart, title=f"Every token, in block {picked}{where_most}"),
            figure(share, title=f"What {where} receive{'' if found.outlier_layers else 's'}, block by block"),
        ),
    ]
    return Section("Attention received", words, joined(body))


def _attention_maps(found: DenoiserDiagnosis, layers: list[int]) -> Markup:
    """Patches alone: registers are no part of the picture."""
    means = [[run.measured.attention.means[layer] for layer in layers] for run in found.runs]
    values = np.array([[mean[-found.patches :] for mean in each if mean is not None] for each in means])
    highest = float(values.max())
    maps = token_maps(
        values,
        np.zeros(values.shape, bool),
        highest=highest,
        rows=[SHORT[run.name] for run in found.runs],
        columns=[str(layer) for layer in layers],
        x_label="block",
        y_label="sites",
    )
    bar = scale_bar("0", f"{highest:.1f} times an even share", outlier=None)
    return figure(joined([bar, maps]), title="Every patch, in every block")


def _comparable(found: DenoiserDiagnosis, means: list[Array | None]) -> list[Array | None]:
    """By block; of patches alone where one walk had registers that another had not."""
    by_layer = zip(*(run.measured.attention.means for run in found.runs), strict=True)
    uneven = any(len({len(mean) for mean in each if mean is not None}) > 1 for each in by_layer)
    return [mean[-found.patches :] if uneven and mean is not None else mean for mean in means]


def _received(found: DenoiserDiagnosis, means: list[Array | None], layer: int) -> float:
    mean = means[layer]
    assert mean is not None
    spots = sorted({int(p) for each in found.outlier_layers for p in found.outlier_patches(found.off, each)})
    patches = mean[len(mean) - found.patches :]
    return float(patches[spots].mean() if spots else mean.max())


def _shift(before: Array | None, after: Array | None) -> float:
    return 0.0 if before is None or after is None else float(np.abs(before - after).max())


def _row_words(found: DenoiserDiagnosis, series: Series) -> str:
    registers = len(series.x) - found.patches
    if not registers:
        return "patch token, row by row"
    return f"token: 0\N{EN DASH}{registers - 1} are registers, then patches row by row"
