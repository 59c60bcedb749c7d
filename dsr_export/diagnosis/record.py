"""`diagnosis.json`, schema version 1.

All stages: `schema_version`, `kind` ("dsr-export-diagnosis"), `tool_version`, `model`, `family`, `stage` ("denoiser",
"encoder" or "pipeline"), `settings` (what was asked, defaults filled in), `verdict` (`tone`, `headline`, `details`,
`command`), `outliers` (bool), `layers` (one object per layer, from 0).

Denoiser: `patches`, `registers`, `times` (the model's time at each step). A layer holds `threshold` (multiples of the
median norm; null: no outliers), `found_by` ("gap", "tail" or null), `largest` (multiple of the median; null: not
finite), `largest_register`, `outlier_patches` (positions, row by row), `non_finite` (tokens). `runs` are the walks:
`name` ("off", "own", "proposed"), `sites` (layers), `ratios` (share of patch tokens over the threshold, a list of
steps for each layer), `replaced` (site's layer -> share of patch tokens replaced), `attention` (received by each row
of a layer's sequence, registers first, 1 being an even share; null where it could not be seen). `replace` is what
dsr.toml declares.

Pipeline: `grid` (frames, rows and columns of the image's tokens), `times`. `sites` takes the place of `layers`: one
object for each `layer` and `stream` ("image" or "text"), with the `block`'s name, `threshold`, `found_by` and `largest`
as above, and `roles`: for "padding", "corner", "first frame" and "other", as far as there are such tokens, their number
`tokens`, how many of them were `outliers`, and `share`, their part of the site's outliers. `runs` hold `ratios` (a list
of steps) and `replaced` as objects by "layer" or "layer_text".

Encoder: `images`, `detect_layer` (from 0), `rounds` (`images_with_outliers`, `outliers`, `neurons`: layer, index and
score, best first), `neurons` (the merged table), `after` (`images_with_outliers` and `outliers` with the table
applied; null where it was not). A layer holds `largest` (L2 norm), `ratio` and `ratio_after`: the share of patch tokens
over the threshold.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from dsr_export.diagnosis.denoiser import DenoiserDiagnosis, Run
from dsr_export.diagnosis.discovery import Scan
from dsr_export.diagnosis.encoder import EncoderDiagnosis, Round
from dsr_export.diagnosis.measures.bins import share_above
from dsr_export.html.page import Verdict
from dsr_export.subject import Subject
from dsr_export.version import __version__

SCHEMA_VERSION = 1
KIND = "dsr-export-diagnosis"
JSON = dict[str, Any]


def denoiser_record(found: DenoiserDiagnosis, verdict: Verdict) -> JSON:
    """JSON values of the whole diagnosis."""
    norms = found.off.measured.norms
    layers = [
        {
            "threshold": limit.value if limit else None,
            "found_by": limit.found if limit else None,
            "largest": finite(norms.largest[layer]),
            "largest_register": finite(norms.other_peaks[layer]),
            "outlier_patches": [int(patch) for patch in found.outlier_patches(found.off, layer)],
            "non_finite": int(norms.non_finite[layer]),
        }
        for layer, limit in enumerate(found.limits)
    ]
    return {
        **head(found.subject, "denoiser", verdict, dataclasses.asdict(found.settings)),
        "outliers": bool(found.outlier_layers),
        "patches": found.patches,
        "registers": found.registers,
        "times": [rounded(t) for t in found.times],
        "layers": layers,
        "runs": [_run(run) for run in found.runs],
        "replace": [{**dataclasses.asdict(group), "layers": list(group.layers)} for group in found.replace],
    }


def encoder_record(found: EncoderDiagnosis, verdict: Verdict) -> JSON:
    """JSON values of the whole diagnosis."""
    after = found.after
    ratios, left = layer_ratios(found.before), None if after is None else layer_ratios(after)
    layers = [
        {
            "largest": finite(found.before.stats.largest[layer]),
            "ratio": rounded(ratios[layer]),
            "ratio_after": None if left is None else rounded(left[layer]),
        }
        for layer in range(found.depth)
    ]
    return {
        **head(found.subject, "encoder", verdict, dataclasses.asdict(found.settings)),
        "outliers": bool(found.before.outliers),
        "images": found.before.images,
        "detect_layer": found.detect_layer,
        "layers": layers,
        "rounds": [_round(each) for each in found.rounds],
        "neurons": {str(layer): list(neurons) for layer, neurons in found.table.items()},
        "after": None if after is None else _counts(after),
        "declared": None if found.declared is None else _counts(found.declared),
    }


def summary(record: JSON) -> JSON:
    """What `--json` prints: the record without its long lists."""
    left_out = {
        "denoiser": ("layers", "runs", "times"),
        "pipeline": ("sites", "runs", "times"),
        "encoder": ("layers", "rounds"),
    }[record["stage"]]
    return {key: value for key, value in record.items() if key not in left_out}


def layer_ratios(scan: Scan) -> list[float]:
    """The share of patch tokens over the threshold behind each layer, all images together."""
    bins = scan.stats.bins
    return [float(share) for share in share_above(scan.stats.by_layer(), bins.anchor_edge)]


def head(subject: Subject, stage: str, verdict: Verdict, settings: JSON) -> JSON:
    """What every record begins with."""
    said = {
        "tone": verdict.tone,
        "headline": verdict.headline,
        "details": list(verdict.details),
        "command": verdict.command,
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        "tool_version": __version__,
        "model": subject.name,
        "family": subject.family,
        "stage": stage,
        "settings": settings,
        "verdict": said,
    }


def _run(run: Run) -> JSON:
    measured = run.measured
    return {
        "name": run.name,
        "sites": list(run.sites),
        "ratios": [[rounded(value) for value in row] for row in run.ratios],
        "replaced": {
            str(layer): rounded(count / max(measured.tokens, 1)) for layer, count in sorted(measured.replaced.items())
        },
        "attention": [None if mean is None else [rounded(v) for v in mean] for mean in measured.attention.means],
    }


def _round(each: Round) -> JSON:
    neurons = [{"layer": n.layer, "index": n.index, "score": rounded(n.score)} for n in each.neurons]
    return {**_counts(each.scan), "neurons": neurons}


def _counts(scan: Scan) -> JSON:
    return {"images_with_outliers": scan.images_with_outliers, "outliers": scan.outliers}


def finite(value: float) -> float | None:
    """`rounded`; None for what is not finite, which JSON does not know."""
    return rounded(value) if math.isfinite(value) else None


def rounded(value: float) -> float:
    """Six significant digits: what is beyond them differs from machine to machine."""
    return float(f"{float(value):.6g}")
