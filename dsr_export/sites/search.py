"""The site-by-site comparison of a bundle, wherever it is: its typed graph against the reference values it ships."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dsr_export.backends.opening import Runtime, tapped_runner
from dsr_export.bundle.reader import TAPS, Bundle
from dsr_export.errors import ExportError
from dsr_export.parity.tolerances import Tolerance
from dsr_export.sites.bisection import Bisection, bisect
from dsr_export.sites.errors import site_errors
from dsr_export.sites.tap_file import Taps
from dsr_export.sites.tapped_engine import tapped_engine
from dsr_export.sites.token_roles import RegisterRows

SOUND = "for the images of taps.npz every site is in tolerance: others show the fault, or fusion makes it"


def search_sites(bundle: Bundle, *, failed: bool, engine: Runtime | None = None) -> dict[str, Any]:
    """`bisection` of a report: the first fault of a bundle that `failed`, and the error after each group.

    Searched is the typed graph in ONNX Runtime, or the `engine` where that alone failed.

    `problem` says why nothing was measured, or nothing was found.
    """
    if TAPS not in bundle.manifest.files:
        return {"site": None, "problem": "the bundle has no taps.npz: it was built by an older dsr-export"}
    try:
        found = _search(bundle, failed, engine)
    except ExportError as error:  # a graph that does not run has failed its checks already; this adds the reason
        return {"site": None, "problem": error.message}
    plain = found.as_dict()
    return plain | {"problem": SOUND} if failed and found.fault is None else plain


def _search(bundle: Bundle, failed: bool, engine: Runtime | None) -> Bisection:
    manifest = bundle.manifest
    taps = Taps.from_arrays(bundle.taps(), where=bundle.file(TAPS))
    sites = [tap.site for tap in taps.taps]
    asked = [tap.tap for tap in taps.taps]
    if engine is not None:
        runner, tapped = tapped_engine(bundle, engine, asked)
    else:
        runner, tapped = tapped_runner(bundle.file("model.onnx"), manifest.inputs, manifest.precision, asked)
    errors = site_errors(runner, tapped, taps, manifest.batch)
    registers = RegisterRows.of(manifest.dsr, sites)
    if not failed:
        return Bisection(errors, registers)
    built = _built(bundle.report()) if engine is None else {}  # the build measured ONNX Runtime, with other kernels
    return bisect(errors, registers, Tolerance.from_dict(manifest.tolerances), built)


def _built(report: Mapping[str, Any]) -> dict[str, float]:
    """SNR per tensor as the build measured it; none where the build failed, and is itself what is searched."""
    rows = report.get("tensors")
    if report.get("passed") is not True or not isinstance(rows, list):
        return {}
    # what a row lacks, or says in other types, was not measured: `bisect` then judges without it
    return {
        str(row["tensor"]): float(row["snr_db"])
        for row in rows
        if isinstance(row, dict) and "tensor" in row and type(row.get("snr_db")) in (int, float)
    }
