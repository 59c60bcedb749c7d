"""Token norms in front of and behind each replacement site, and which tokens it replaced, on a golden case."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.backends.onnxruntime import OnnxRuntimeRunner
from dsr_export.html.rasters import grid_of
from dsr_export.parity.golden.vectors import Case, Golden
from dsr_export.sites.token_roles import first_rows
from dsr_export.subject import SubjectCard, times_of
from graphs.artifacts import OptimizedModel
from graphs.observe.site_taps import SiteTap, add_site_taps

Array = npt.NDArray[Any]
IMAGES = 4
DIGITS = 5  # significant ones; a picture shows no more


def measure_token_norms(
    optimized: OptimizedModel, card: SubjectCard, golden: Golden, scratch: Path
) -> dict[str, Any] | None:
    """The report's `token_norms` from the FP32 graph; None for a model without sites.

    `scratch` is a folder for the tapped copy, which is removed again.
    """
    tapped = scratch / "tapped.onnx"
    taps = add_site_taps(optimized, tapped)
    if not taps:
        return None
    size, case = _case(golden)
    with OnnxRuntimeRunner(tapped, inputs=card.inputs) as runner:
        outputs = runner.infer(dict(case.inputs))
    for path in scratch.glob(f"{tapped.name}*"):
        path.unlink()
    denoiser = card.dsr["denoiser"]
    registers, rows = int(denoiser["registers"]), first_rows(denoiser)
    sites = [_site(tap, outputs, registers, rows) for tap in taps]
    times = times_of(case.inputs)
    shown = [] if times is None else [_short(time) for time in times[:IMAGES].tolist()]
    return {"case": f"batch-{size}", "times": shown, "sites": sites}


def _case(golden: Golden) -> tuple[int, Case]:
    """The smallest batch with enough images: the graph may be made for the golden sizes alone."""
    size = min((size for size in golden.cases if size >= IMAGES), default=max(golden.cases))
    return size, golden.cases[size]


def _site(tap: SiteTap, outputs: Mapping[str, Array], registers: int, rows: Mapping[int, int]) -> dict[str, Any]:
    before, after = outputs[tap.before][:IMAGES], outputs[tap.after][:IMAGES]
    replaced = np.any([outputs[name][:IMAGES, :, 0] for name in tap.replaced], axis=0)
    patches: slice | Array = patch_rows(before.shape[1], registers)
    if before.shape[1] in rows:
        first = rows[before.shape[1]]
        patches = np.delete(np.arange(before.shape[1]), np.s_[first : first + registers])
    return {
        "site": tap.site,
        "before": [[_short(norm) for norm in row] for row in before[:, patches].tolist()],
        "after": [[_short(norm) for norm in row] for row in after[:, patches].tolist()],
        "replaced": [np.flatnonzero(row).tolist() for row in replaced[:, patches]],
    }


def patch_rows(tokens: int, registers: int) -> slice:
    """The image's patches among `tokens`: registers stand in front of them, or are not there yet at this site.

    Where neither leaves a square, the registers are taken off all the same: text tokens then stay with the patches.
    """
    absent = registers >= tokens or (grid_of(tokens - registers)[0] == 1 and grid_of(tokens)[0] > 1)
    return slice(0 if absent else registers, tokens)


def _short(value: float) -> float | None:
    """Rounded; None for what is not finite, which JSON has no form for."""
    return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None
