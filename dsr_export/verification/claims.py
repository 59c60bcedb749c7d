"""What a bundle says of itself, held against what it holds: honest mistakes that no checksum shows.

Whoever can seal a bundle again can make all of it agree; against that there is a signature (`bundle.signature`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from dsr_export.backends.tensorrt.plan_header import plan_problem
from dsr_export.bundle.manifest import Manifest
from dsr_export.bundle.manifest_parts import BundleTarget
from dsr_export.bundle.reader import STEP, Bundle
from dsr_export.bundle.sbom import SBOM
from dsr_export.parity.checks.table import stored_checks
from dsr_export.parity.golden.vectors import Golden
from dsr_export.parity.rows import ParityRow
from dsr_export.parity.tolerances import TOLERANCES
from dsr_export.reports.figures import is_known
from graphs.precisions import PRECISIONS, report_key

Row = tuple[str, str]
"""Check and output."""
_AT_LEAST = ("cosine", "psnr_db", "snr_db")


def tolerance_problems(manifest: Manifest, report: Mapping[str, Any]) -> list[str]:
    """Bounds looser than those of the precision. The SNR of codes may be the budget that the build was asked for."""
    own, given = TOLERANCES[manifest.precision], manifest.tolerances
    least = {key: getattr(own, key) for key in _AT_LEAST}
    budget = _budget(report, report_key(manifest.precision)) if PRECISIONS[manifest.precision].quantized else None
    least |= {} if budget is None else {"snr_db": budget}
    found = [f"{key} {given[key]:g}, at least {least[key]:g}" for key in _AT_LEAST if given[key] < least[key]]
    if own.max_abs is not None and (given["max_abs"] is None or given["max_abs"] > own.max_abs):
        found.append(f"max_abs {given['max_abs']}, at most {own.max_abs:g}")
    return [f"{each} is held by any {manifest.precision} build" for each in found]


def content_problems(bundle: Bundle, golden: Golden, rows: Iterable[ParityRow]) -> Iterator[str]:
    """What golden vectors and report lack of what the manifest declares. `rows` are those of the ONNX graph."""
    yield from _golden_problems(bundle.manifest, golden)
    report = bundle.report()
    yield from row_problems(bundle, report, golden, rows)
    yield from _step_problems(bundle, report)


def row_problems(bundle: Bundle, report: Mapping[str, Any], golden: Golden, rows: Iterable[ParityRow]) -> Iterator[str]:
    """What the build compared and this verification did not, and the other way round."""
    built, made = dict(_built_rows(report)), {(row.check, row.output) for row in rows}
    declared = stored_checks(bundle.manifest.batch.sizes())
    for check, output in sorted(built.keys() - made):
        if check in declared:
            yield f"the build compared {check} {output}, and the golden vectors do not hold it"
    whole = SBOM in bundle.manifest.files  # a bundle of an older version was built with fewer checks
    held = stored_checks(golden.cases)
    for check, output in sorted(made - built.keys()):
        if whole or check in held:
            yield f"report.json has no row {check} {output}"
    if report.get("passed") is True and not all(built.values()):
        yield "report.json says that the build passed, and one of its rows failed"


def _golden_problems(manifest: Manifest, golden: Golden) -> Iterator[str]:
    for size in manifest.batch.sizes():
        if size not in golden.cases:
            yield f"golden.npz holds no batch of {size}"
    if (manifest.sampler is None) != (golden.trajectory is None):
        has, lacks = "a sampler", "golden.npz holds no trajectory"
        if manifest.sampler is None:
            has, lacks = "no sampler", "golden.npz holds a trajectory"
        yield f"the manifest declares {has}, and {lacks}"


def _step_problems(bundle: Bundle, report: Mapping[str, Any]) -> Iterator[str]:
    """A whole step of the sampler is held in all forms and for all targets that the model has, or in none."""
    files = bundle.manifest.files
    engines = [target.engine for target in bundle.manifest.targets if target.engine is not None]
    model = [*(name for name in bundle.graphs if not name.startswith(STEP)), *engines]
    lacking = [f"{STEP}{name}" for name in model if f"{STEP}{name}" not in files]
    if "fused_step" in report or any(name.startswith(STEP) for name in files):
        yield from (f"the build put the sampler's step into the bundle, and there is no {name}" for name in lacking)
        if bundle.manifest.sampler is None:
            yield "the bundle holds a sampler's step, and the manifest declares no sampler"


def plan_problems(bundle: Bundle) -> Iterator[str]:
    """Engines that are no plans of the backend and version that the manifest names."""
    for target in bundle.manifest.targets:
        for plan in () if target.engine is None else (target.engine, f"{STEP}{target.engine}"):
            if plan in bundle.manifest.files and (problem := _plan_problem(bundle, plan, target)) is not None:
                yield f"{plan} {problem}"


def _plan_problem(bundle: Bundle, plan: str, target: BundleTarget) -> str | None:
    return plan_problem(bundle.file(plan), target.backend, target.version)


def _built_rows(report: Mapping[str, Any]) -> Iterator[tuple[Row, bool]]:
    """Of the typed graph in ONNX Runtime. The report may hold anything: what is no row is none."""
    rows = report.get("parity")
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, dict) and row.get("runtime") == "onnxruntime" and row.get("target") is None:
            yield (str(row.get("check")), str(row.get("output"))), row.get("passed") is True


def _budget(report: Mapping[str, Any], section: str) -> float | None:
    told = report.get(section)
    budget = told.get("budget_snr_db") if isinstance(told, dict) else None
    return budget if is_known(budget) and budget >= 0 else None
