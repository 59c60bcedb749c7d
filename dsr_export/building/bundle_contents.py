"""What a finished build puts into its bundle."""

from __future__ import annotations

import subprocess
from dataclasses import asdict, replace
from pathlib import Path

from dsr_export.building.build import Build
from dsr_export.building.finished import Finished, FusedSteps
from dsr_export.bundle.components import component_contents, component_entry
from dsr_export.bundle.engines import engine_entry
from dsr_export.bundle.manifest import BundleTarget, Manifest
from dsr_export.bundle.paths import plan_path, step_plan_path
from dsr_export.bundle.writer import Content
from dsr_export.config import ExportConfig
from dsr_export.int8.calibrate import TABLE
from dsr_export.parity.tolerances import TOLERANCES, Tolerance
from dsr_export.stages.engine import PLAN, Engine
from dsr_export.stages.reference import GOLDEN
from dsr_export.stages.stage import MODEL
from dsr_export.stages.taps import TAPS
from dsr_export.stages.type_graph import Typed
from dsr_export.storage.made_with import tool_versions
from graphs.precisions import PRECISIONS
from graphs.quantize.schemes import SCHEMES
from graphs.targets import Target


def bundle_contents(build: Build, done: Finished) -> dict[str, Content]:
    """Path in the bundle -> where its bytes are; the report's files are still to come, since it lists these sizes."""
    contents: dict[str, Content] = {}
    for path, typed in done.graphs.items():
        contents |= _graph_files(typed, path.removesuffix(typed.name))
    if done.steps is not None:
        contents |= _step_files(done.steps)
    contents[GOLDEN] = done.reference.file(GOLDEN)
    contents[TAPS] = done.taps.file(TAPS)
    for name, engine in done.engines.items():
        contents[plan_path(name)] = engine.file(PLAN)
    if done.calibrated is not None:
        contents[TABLE] = done.calibrated.file(TABLE)
    for role, component in build.components.items():
        contents |= component_contents(role, component.path, component.manifest)
    return contents if build.plan is None else {**contents, **build.plan.files}


def _step_files(steps: FusedSteps) -> dict[str, Content]:
    """What holds a whole step of the sampler, in a folder of its own."""
    contents: dict[str, Content] = {}
    for path, typed in steps.graphs.items():
        contents |= _graph_files(typed, path.removesuffix(typed.name))
    return contents | {step_plan_path(name): engine.file(PLAN) for name, engine in steps.engines.items()}


def _graph_files(typed: Typed, folder: str) -> dict[str, Content]:
    """The graph and its weights, in a folder of the bundle."""
    made = typed.made
    named = [name for name in made.files if name == typed.name or (name.startswith(MODEL) and "/" not in name)]
    return {folder + name: made.file(name) for name in named}


def build_tolerance(config: ExportConfig) -> Tolerance:
    """What the bundle is held to, by its builder and by everyone who verifies it: codes to the budget asked for."""
    own = TOLERANCES[config.precision]
    budget = config.int8.budget_db if PRECISIONS[config.precision].quantized else None
    return own if budget is None else replace(own, snr_db=budget, reason="the budget asked for")


def aimed_snr(config: ExportConfig) -> float:
    """The SNR in dB that formats are chosen for: what was asked for, or else what the precision is made for."""
    asked = config.int8.budget_db
    return SCHEMES[config.precision].budget_db if asked is None else asked


def beyond_snr(config: ExportConfig) -> float:
    """What the output is to keep more than with all GEMMs in their first formats, in dB, where that costs nothing: who
    asks for a budget gets that one."""
    return SCHEMES[config.precision].beyond_db if config.int8.budget_db is None else 0.0


def bundle_manifest(build: Build, done: Finished) -> Manifest:
    """The manifest but for its file list, which the writer measures."""
    card, audit = done.traced.card, done.audited.audit
    return Manifest(
        name=build.name,
        model={"name": card.name, "family": card.family, "config": card.config, "num_classes": card.num_classes},
        dsr=card.dsr,
        precision=build.config.precision,
        targets=tuple(_bundle_target(target, done.engines.get(target.name)) for target in build.targets),
        inputs=card.inputs,
        outputs=card.outputs,
        batch=build.config.batch,
        sampler=None if card.sampler is None else asdict(card.sampler),
        tolerances=build_tolerance(build.config).as_dict(),
        tools=tool_versions(),
        provenance={**card.provenance, "git_revision": _git_revision()},
        build_key=build.key,
        range_audit={"kept_fp32": audit.wide_tensors(build.config.precision), "runs": audit.runs},
        components={role: component_entry(role, each.manifest) for role, each in build.components.items()},
        pipeline=None if build.plan is None else build.plan.record,
    )


def _bundle_target(target: Target, engine: Engine | None) -> BundleTarget:
    if engine is None:
        return BundleTarget(name=target.name, backend=target.backend, version=_onnxruntime_version())
    return engine_entry(target, engine.facts)


def _onnxruntime_version() -> str:
    versions = tool_versions()
    return next((versions[name] for name in ("onnxruntime-gpu", "onnxruntime") if name in versions), "unknown")


def _git_revision() -> str | None:
    """The revision of the checkout this package runs from; None for an installed one."""
    root = Path(__file__).resolve().parent.parent.parent
    command = ["git", "-C", str(root), "rev-parse", "--show-toplevel", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = found.stdout.split()  # an environment inside some other checkout has that one's root
    return lines[1] if found.returncode == 0 and len(lines) == 2 and Path(lines[0]) == root else None
