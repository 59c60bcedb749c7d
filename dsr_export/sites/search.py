"""The site-by-site comparison of a bundle, wherever it is: its typed graph against the reference values it ships."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dsr_export.backends.inputs import check_inputs
from dsr_export.backends.opening import tapped_runner
from dsr_export.backends.runtime_names import Runtime
from dsr_export.bundle.reader import MODEL, TAPS, Bundle
from dsr_export.errors import ExportError, RunnerError
from dsr_export.parity.batch_calls import batches
from dsr_export.parity.tolerances import Tolerance
from dsr_export.sites.bisection import Bisection, bisect
from dsr_export.sites.errors import site_errors
from dsr_export.sites.tap_file import Taps
from dsr_export.sites.tapped_engine import tapped_engine
from dsr_export.sites.token_roles import RegisterRows
from graphs.observe.taps import ABSENT

SOUND = "for the images of taps.npz every site is in tolerance: others show the fault, or fusion makes it"


def search_sites(bundle: Bundle, *, failed: bool, engine: Runtime | None = None, graph: str = MODEL) -> dict[str, Any]:
    """`bisection` of a report: the first fault of a bundle that `failed`, and the error after each group.

    Searched is the file `graph` in ONNX Runtime, or the `engine` where that alone failed.

    `problem` says why nothing was measured, or nothing was found.

    Raises ExportError where the bundle's taps are damaged, or do not fit its inputs.
    """
    if TAPS not in bundle.manifest.files:
        return {"site": None, "problem": "the bundle has no taps.npz: it was built by an older dsr-export"}
    try:
        found = _search(bundle, failed, engine, graph)
    except RunnerError as error:  # a graph that does not run has failed its checks already; this adds the reason
        return {"site": None, "problem": error.message}
    plain = found.as_dict()
    return plain | {"problem": SOUND} if failed and found.fault is None else plain


def _search(bundle: Bundle, failed: bool, engine: Runtime | None, graph: str) -> Bisection:
    manifest, taps = bundle.manifest, _taps(bundle)
    sites = [tap.site for tap in taps.taps]
    asked = [tap.tap for tap in taps.taps]
    if engine is not None:
        runner, tapped = tapped_engine(bundle, engine, asked)
    else:
        runner, tapped = tapped_runner(bundle.file(graph), manifest.inputs, manifest.precision, asked)
    errors = site_errors(runner, tapped, taps, manifest.batch)
    registers = RegisterRows.of(manifest.dsr, sites)
    if not failed:
        return Bisection(errors, registers)
    built = _built(bundle.report()) if engine is None else {}  # the build measured ONNX Runtime, with other kernels
    if graph != MODEL:  # the build measured `model.onnx`: what a graph in another form does not make is no fault of it
        absent = {sites[i].tensor for i, reason in tapped.lost.items() if reason == ABSENT}
        built = {tensor: snr for tensor, snr in built.items() if tensor not in absent}
    return bisect(errors, registers, Tolerance.from_dict(manifest.tolerances), built)


def _taps(bundle: Bundle) -> Taps:
    """ExportError, naming the file, where it is damaged or its images are none that the model takes."""
    where, manifest = bundle.file(TAPS), bundle.manifest
    taps = Taps.from_arrays(bundle.taps(), where=where)
    try:
        check_inputs(next(batches(taps.inputs, manifest.batch)), manifest.inputs)
    except ExportError as error:
        raise ExportError(f"{where}: {error.message}", hint="build the bundle again") from error
    return taps


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
