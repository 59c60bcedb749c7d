"""`index.html` of a denoiser's diagnosis."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.diagnosis.denoiser import DenoiserDiagnosis, Run
from dsr_export.diagnosis.pages.attention import attention_section
from dsr_export.diagnosis.pages.norm_charts import coarse
from dsr_export.diagnosis.pages.run_names import STYLES, run_name
from dsr_export.html.axes import percent
from dsr_export.html.charts import Mark, Series, heat_map, histogram, legend
from dsr_export.html.markup import Markup, element, joined
from dsr_export.html.page import Section, Verdict, figure, page, row, table
from dsr_export.html.rasters import scale_bar, token_maps

Array = npt.NDArray[Any]


def denoiser_page(found: DenoiserDiagnosis, verdict: Verdict) -> str:
    """The whole document."""
    walked = found.settings
    facts = [
        ("blocks", str(len(found.limits))),
        ("patch tokens", str(found.patches)),
        ("registers", str(found.registers)),
        ("images walked", str(walked.images)),
        ("time steps", str(walked.steps)),
        ("largest norm, medians", f"{found.off.measured.norms.largest.max():.1f}"),
    ]
    sections = [ratio_section(found)] if any(run.ratios.any() for run in found.runs) else []
    sections += [map_section(found), norm_section(found), attention_section(found)]
    sections += [_site_section(found)] if found.replace else []
    foot = (
        f"{walked.images} images, classes in turn, {walked.steps} steps of the model's sampler, seed {walked.seed}. "
        "A norm counts as a multiple of the median norm of its image's patch tokens behind the same block."
    )
    return page(f"Outlier tokens of {found.subject.name}", verdict, facts, sections, foot)


def ratio_section(found: DenoiserDiagnosis) -> Section:
    """The share of outliers by block and time, of every walk."""
    highest = max(float(run.ratios.max()) for run in found.runs)
    charts = [
        figure(
            heat_map(
                run.ratios,
                rows=_layers(found),
                columns=_times(found),
                x_label="time, from noise to image",
                y_label="block",
                highest=highest,
            ),
            title=run_name(run).capitalize(),
        )
        for run in found.runs
    ]
    words = "The share of patch tokens whose norm exceeds their block's threshold, in %. Empty cells hold none."
    return Section("Where outliers are", words, row(*charts, wide=found.settings.steps > 12))


def map_section(found: DenoiserDiagnosis) -> Section:
    """Norms on the patch grid, of the first walk and the last."""
    shown = [found.off] if len(found.runs) == 1 else [found.off, found.runs[-1]]
    charts = [_maps(found, run, ordinary_peak(found)) for run in shown]
    words = (
        "Each square is the image's patch grid behind one block at one time step: the largest norm of any image "
        "walked, as a multiple of that image's median."
    )
    bar = scale_bar("0", f"{ordinary_peak(found):.1f} times the median", outlier="outlier token")
    return Section("Token norms", words, joined([bar, row(*charts, wide=len(found.limits) > 8)]))


def _maps(found: DenoiserDiagnosis, run: Run, highest: float) -> Markup:
    norms = run.measured.norms
    limits = np.array([np.inf if limit is None else norms.bins.edges[limit.edge] for limit in found.limits])
    peaks = norms.peaks.transpose(1, 0, 2)  # [T, L, N]
    maps = token_maps(
        peaks,
        peaks > limits[None, :, None],
        highest=highest,
        rows=_times(found),
        columns=_layers(found),
        x_label="block",
        y_label="time",
    )
    return figure(maps, title=run_name(run).capitalize())


def ordinary_peak(found: DenoiserDiagnosis) -> float:
    """The largest norm below the thresholds: where the colours of ordinary tokens end."""
    peaks, bins = found.off.measured.norms.peaks, found.off.measured.norms.bins
    limits = np.array([np.inf if limit is None else bins.edges[limit.edge] for limit in found.limits])
    kept = peaks[(peaks <= limits[:, None, None]) & np.isfinite(peaks)]
    return float(kept.max()) if len(kept) else 1.0


def norm_section(found: DenoiserDiagnosis) -> Section:
    """How many tokens have which norm."""
    layers = found.outlier_layers or list(range(len(found.limits)))
    worst = max(layers, key=lambda layer: float(found.off.measured.norms.largest[layer]))
    after = max(layers)
    picked = [worst] if worst == after else [worst, after]
    charts = [figure(_histogram(found, layer), title=f"Behind block {layer}") for layer in picked]
    rest = [figure(_histogram(found, layer), title=f"Behind block {layer}") for layer in range(len(found.limits))]
    more = element("details", element("summary", Markup("All blocks")), row(*rest))
    words = "How many tokens have which norm, all time steps together. "
    words += "The dashed line is the threshold of outliers." if found.outlier_layers else "None stands apart."
    key = legend([Series(run_name(run), STYLES[run.name], (), ()) for run in found.runs])
    heading = "Norms before and after replacement" if len(found.runs) > 1 else "Norms"
    return Section(heading, words, joined([key, row(*charts), more]))


def _histogram(found: DenoiserDiagnosis, layer: int) -> Markup:
    limit = found.limits[layer]
    counts = [run.measured.norms.by_layer()[layer] for run in found.runs]
    edges, merged = coarse(counts, found.off.measured.norms.bins)
    series = [
        Series(run_name(run), STYLES[run.name], edges, values) for run, values in zip(found.runs, merged, strict=True)
    ]
    marks = [] if limit is None else [Mark(limit.value, f"threshold {limit.value:.3g}")]
    return histogram(series, x_label="norm, multiples of the median", y_label="tokens", marks=marks)


def _site_section(found: DenoiserDiagnosis) -> Section:
    proposed = found.run("proposed")
    assert proposed is not None
    rows = []
    for group in found.replace:
        for layer in group.layers:
            limit = found.limits[layer]
            share = proposed.measured.replaced.get(layer, 0) / max(proposed.measured.tokens, 1)
            by = "" if limit is None else limit.found
            rows.append(
                [str(layer), f"{group.rule} x {group.threshold:g}", by, group.choice, str(group.rounds), percent(share)]
            )
    words = (
        "What dsr.toml declares. Sites that were tried and replaced nothing are left out. A gap: no token lies around "
        "the threshold. A tail: outliers shade into ordinary tokens."
    )
    header = ["behind block", "threshold", "found by", "becomes", "rounds", "tokens replaced"]
    return Section("Proposed replacement", words, figure(table(header, rows)))


def _layers(found: DenoiserDiagnosis) -> list[str]:
    return [str(layer) for layer in range(len(found.limits))]


def _times(found: DenoiserDiagnosis) -> list[str]:
    return [f"{time:.3g}" if time >= 10 else f"{time:.2f}" for time in found.times]
