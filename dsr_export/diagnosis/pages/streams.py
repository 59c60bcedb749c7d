"""`index.html` of a pipeline's diagnosis."""

from __future__ import annotations

import numpy as np

from calibration.places import PLACES
from dsr_export.diagnosis.streams.diagnosis import StreamDiagnosis, StreamRun, sites_by_stream
from dsr_export.diagnosis.streams.report import WHOSE
from dsr_export.html.axes import percent
from dsr_export.html.charts import heat_map
from dsr_export.html.markup import Markup
from dsr_export.html.page import Section, Verdict, figure, page, row, table

RUNS = {"off": "without replacement", "own": "with the model's sites", "proposed": "with the proposed sites"}


def stream_page(found: StreamDiagnosis, verdict: Verdict) -> str:
    """The whole document."""
    walked = found.walked
    facts = [
        ("blocks", str(len(found.blocks))),
        ("image tokens", " x ".join(str(side) for side in found.grid)),
        ("prompts", str(len(walked.prompts))),
        ("images walked", str(walked.images)),
        ("time steps", str(len(found.off.measured.times))),
    ]
    ratios = [each for run in found.runs for each in run.ratios.values()]
    sections = [_ratio_section(found)] if any(each.any() for each in ratios) else []
    words = "A norm counts as a multiple of the median norm of its image's tokens of that stream behind the same block."
    foot = f"{walked}. {words}"
    return page(f"Outlier tokens of {found.subject.name}", verdict, facts, [*sections, _role_section(found)], foot)


def _ratio_section(found: StreamDiagnosis) -> Section:
    streams = sites_by_stream(list(found.limits))
    highest = max(float(ratios.max()) for run in found.runs for ratios in run.ratios.values())
    charts = [_heat_map(found, run, stream, highest) for run in found.runs for stream in streams]
    words = "The share of a stream's tokens whose norm exceeds their block's threshold, in %. Empty cells hold none."
    return Section("Where outliers are", words, row(*charts, wide=found.walked.steps > 12))


def _heat_map(found: StreamDiagnosis, run: StreamRun, stream: str, highest: float) -> Markup:
    sites = [site for site in found.limits if site[1] == stream]
    chart = heat_map(
        np.stack([run.ratios[site] for site in sites]),
        rows=[str(layer) for layer, _ in sites],
        columns=[f"{time:.3g}" for _, time in sorted(run.measured.times.items())],
        x_label="time, from noise to image",
        y_label="block",
        highest=highest,
    )
    return figure(chart, title=f"{WHOSE[stream].capitalize()}, {RUNS[run.name]}")


def _role_section(found: StreamDiagnosis) -> Section:
    rows = []
    for (layer, stream), limit in found.limits.items():
        counts = found.role_counts((layer, stream))
        total = sum(above for above, _ in counts.values())
        shares = [percent(counts[role][0] / total) if total and role in counts else "" for role in PLACES]
        largest = found.off.measured.norms[layer, stream].largest
        limits = "" if limit is None else f"{limit.value:g} ({limit.found})"
        rows.append([str(layer), found.blocks[layer].name, stream, f"{largest:.1f}", limits, *shares])
    words = (
        "Which tokens the outliers of a block are: padding of the prompt, corners of the picture, the first frame of a "
        "film, or others. A gap: no token lies around the threshold. A tail: outliers shade into ordinary tokens."
    )
    header = ["block", "name", "stream", "largest, medians", "threshold", *PLACES]
    return Section("Roles", words, figure(table(header, rows)))
