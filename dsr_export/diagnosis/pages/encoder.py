"""`index.html` of an encoder's diagnosis."""

from __future__ import annotations

import numpy as np

from dsr_export.diagnosis.discovery import SHOWN, Scan
from dsr_export.diagnosis.encoder import EncoderDiagnosis
from dsr_export.diagnosis.neurons import Neuron
from dsr_export.diagnosis.pages.norm_charts import coarse
from dsr_export.diagnosis.record import layer_ratios
from dsr_export.html.charts import Mark, Series, bars, histogram, legend, lines
from dsr_export.html.markup import Markup, joined
from dsr_export.html.page import Section, Verdict, figure, page, row, table
from dsr_export.html.rasters import scale_bar, token_maps

BEFORE, AFTER = ("without registers", "a"), ("with one test-time register", "b")
DECLARED = ("with the declared registers", "c")
LISTED = 20


def encoder_page(found: EncoderDiagnosis, verdict: Verdict) -> str:
    """The whole document."""
    before = found.before
    facts = [
        ("layers", str(found.depth)),
        ("patch tokens", str(before.stats.peaks.shape[2])),
        ("images", str(before.images)),
        ("with outliers", str(before.images_with_outliers)),
        ("register neurons", str(sum(len(neurons) for neurons in found.table.values()))),
        ("largest norm", f"{before.stats.largest[found.detect_layer]:.4g}"),
    ]
    sections = [_map_section(found), _norm_section(found)]
    sections += [_neuron_section(found)] if found.table else []
    settings = found.settings
    foot = (
        f"An outlier is a patch token whose norm behind layer {found.detect_layer} exceeds {settings.threshold:g}; "
        f"neurons of layers 0 to {min(settings.highest_layer, found.depth - 1)}, at most {settings.top_k} in each of "
        f"{len(found.rounds)} rounds."
    )
    return page(f"Outlier tokens of {found.subject.name}", verdict, facts, sections, foot)


def _scans(found: EncoderDiagnosis) -> list[tuple[tuple[str, str], Scan]]:
    scans = ((BEFORE, found.before), (AFTER, found.after), (DECLARED, found.declared))
    return [(called, scan) for called, scan in scans if scan is not None]


def _map_section(found: EncoderDiagnosis) -> Section:
    highest = found.settings.threshold
    charts = [figure(_maps(found, scan, highest), title=name.capitalize()) for (name, _), scan in _scans(found)]
    bar = scale_bar("0", f"{highest:g}", outlier=f"norm over {highest:g}")
    words = f"Each square is the patch grid of one image behind one layer; the first {SHOWN} images at most."
    return Section("Token norms", words, joined([bar, row(*charts, wide=found.depth > 8)]))


def _maps(found: EncoderDiagnosis, scan: Scan, highest: float) -> Markup:
    shown = min(scan.images, SHOWN)
    peaks = scan.stats.peaks[:, :shown].transpose(1, 0, 2)  # [images, L, N]
    return token_maps(
        peaks,
        peaks > highest,
        highest=highest,
        rows=[str(i + 1) for i in range(shown)],
        columns=[str(layer) for layer in range(found.depth)],
        x_label="layer",
        y_label="image",
    )


def _norm_section(found: EncoderDiagnosis) -> Section:
    scans, layer = _scans(found), found.detect_layer
    edges, counts = coarse([scan.stats.by_layer()[layer] for _, scan in scans], found.before.stats.bins)
    series = [Series(*called, edges, values) for (called, _), values in zip(scans, counts, strict=True)]
    mark = Mark(found.settings.threshold, f"threshold {found.settings.threshold:g}")
    chart = histogram(series, x_label="L2 norm of a patch token", y_label="tokens", marks=[mark])
    words = "How many patch tokens have which norm where outliers are told apart, and where they arise."
    charts = row(figure(chart, title=f"Behind layer {layer}"), figure(_by_layer(found), title="Layer by layer"))
    return Section("Norms before and after", words, joined([legend(series), charts]))


def _by_layer(found: EncoderDiagnosis) -> Markup:
    """The share of patch tokens over the threshold behind each layer."""
    layers = range(found.depth)
    series = [Series(*called, layers, [100 * r for r in layer_ratios(scan)]) for called, scan in _scans(found)]
    return lines(series, x_label="layer", y_label="tokens over the threshold, %")


def _neuron_section(found: EncoderDiagnosis) -> Section:
    counts = [float(len(found.table.get(layer, ()))) for layer in range(found.depth)]
    chart = bars(counts, [str(layer) for layer in range(found.depth)], x_label="layer", y_label="register neurons")
    listed = best_of(found)
    rows = [[f"layer {n.layer}, neuron {n.index}", str(number), f"{n.score:.3g}"] for number, n in listed[:LISTED]]
    words = (
        "Neurons that light up on outlier tokens and are quiet on at least half of the others. The score is the mean "
        "size of their activation on outliers. neurons.json lists them all."
    )
    listing = table(["best neurons", "found in round", "score"], rows)
    return Section("Register neurons", words, row(figure(chart), figure(listing)))


def best_of(found: EncoderDiagnosis) -> list[tuple[int, Neuron]]:
    """Round and neuron, each neuron once with the score that it was first found with; best first."""
    first: dict[tuple[int, int], tuple[int, Neuron]] = {}
    for number, each in enumerate(found.rounds, start=1):
        for neuron in each.neurons:
            first.setdefault((neuron.layer, neuron.index), (number, neuron))
    scores = np.array([-neuron.score for _, neuron in first.values()])
    return [list(first.values())[i] for i in np.argsort(scores, kind="stable")]
