"""Which engines of a bundle are not run on this machine, and why: a verdict must not be taken for theirs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dsr_export.backends.gpu import compute_capability
from dsr_export.backends.opening import chosen_engine
from dsr_export.backends.runtime_names import Runtime
from dsr_export.backends.tensorrt.engine_fit import EngineNeeds, Machine, misfits
from dsr_export.backends.tensorrt.plan_header import is_recognised
from dsr_export.backends.tensorrt.vendor import installed_version
from dsr_export.bundle.manifest_parts import BundleTarget
from dsr_export.bundle.reader import STEP, Bundle

NO_GPU = "there is no GPU"
NOT_RUN = "no GPU here runs it"


def engines_not_run(bundle: Bundle, runtimes: Sequence[Runtime]) -> list[dict[str, Any]]:
    """`target`, `engine` and `reason` of each engine that none of `runtimes`, as they were chosen, runs."""
    ran = {engine.name for each in runtimes if (engine := chosen_engine(bundle, each)) is not None}
    left = [each for each in bundle.manifest.targets if each.engine is not None and each.name not in ran]
    return [
        {"target": each.name, "engine": plan, "reason": _reason(each, runtimes) + _stranger(bundle, each, plan)}
        for each in left
        for plan in (str(each.engine), f"{STEP}{each.engine}")  # that of a whole step is opened with the model's
        if plan in bundle.manifest.files
    ]


def _stranger(bundle: Bundle, engine: BundleTarget, plan: str) -> str:
    known = is_recognised(bundle.file(plan), engine.backend)
    return "" if known else ", and its first bytes are not recognised"


def _reason(engine: BundleTarget, runtimes: Sequence[Runtime]) -> str:
    if compute_capability() is None:
        return NO_GPU
    here = Machine.here(installed_version(engine.backend))
    found = misfits(EngineNeeds.of_entry(engine), here)
    if found:
        return "; ".join(found)
    return f"{' and '.join(runtimes)} was asked for" if "auto" not in runtimes else "another engine was run"
