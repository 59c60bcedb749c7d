"""Re-checks a bundle anywhere, without torch: hashes, precision, and the golden vectors in each runtime at hand."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from dsr_export.bundle.reader import Bundle
from dsr_export.parity.checks import ParityReport, check_parity
from dsr_export.parity.golden import Golden, fitted_sampler
from dsr_export.parity.tolerances import Tolerance
from dsr_export.progress import Reporter, Silent
from dsr_export.report import SCHEMA_VERSION, peak_rss_bytes, precision_check
from dsr_export.runners import Runtime, bundle_runner, has_runnable_engine
from dsr_export.sampling import SamplerSpec
from graphs.files import load_model
from graphs.weights import low_precision_fraction


def verify(path: Path, *, runtime: Runtime = "auto", reporter: Reporter | None = None) -> dict[str, Any]:
    """Returns a report of the same form as a build's; `passed` is the verdict. Writes nothing.

    `auto` checks ONNX Runtime, and the engine as well where a GPU can run it.

    Raises:
        ExportError: a file was altered, or the runtime asked for can't run here.
    """
    reporter = reporter or Silent()
    log: list[dict[str, Any]] = []
    with reporter.stage("hashes"), _Logged(log, "hashes"):
        bundle = Bundle.open(path)
    golden = Golden.from_arrays(bundle.golden())
    runtimes: list[Runtime] = [runtime] if runtime != "auto" else ["onnxruntime"]
    if runtime == "auto" and has_runnable_engine(bundle):
        runtimes.append("auto")
    checked = [_check(bundle, each, golden, reporter, log) for each in runtimes]
    fraction = low_precision_fraction(load_model(bundle.file("model.onnx"), weights=False), bundle.manifest.precision)
    precision = precision_check(bundle.manifest.precision, fraction)
    return _report(bundle, checked, precision, log)


def _check(
    bundle: Bundle, runtime: Runtime, golden: Golden, reporter: Reporter, log: list[dict[str, Any]]
) -> ParityReport:
    tolerance = Tolerance.from_dict(bundle.manifest.tolerances)
    sampler = golden_sampler(bundle, golden)
    runner = bundle_runner(bundle, runtime)
    with reporter.stage(f"parity ({runner.name})") as bar, _Logged(log, f"parity-{runner.name}"), runner:
        return check_parity(runner, golden, sampler, tolerance, bar)


def golden_sampler(bundle: Bundle, golden: Golden) -> SamplerSpec | None:
    """The sampler that the golden trajectory was made with."""
    sampler = bundle.manifest.sampler_spec()
    if sampler is None or golden.trajectory is None:
        return None
    steps = dataclasses.replace(sampler, num_steps=len(golden.trajectory.states) + 1)
    return fitted_sampler(steps, bundle.manifest.batch_range())


def _report(
    bundle: Bundle, checked: list[ParityReport], precision: dict[str, Any], log: list[dict[str, Any]]
) -> dict[str, Any]:
    built = bundle.report()
    return {
        "schema_version": SCHEMA_VERSION,
        "bundle": str(bundle.path),
        "passed": precision["passed"] and all(each.passed for each in checked),
        "precision": bundle.manifest.precision,
        "target": built["target"],
        "targets": built["targets"],
        "stages": log,
        "parity": [row.as_dict() for each in checked for row in each.rows],
        "trajectory_snr_db": list(checked[0].trajectory_snr_db),
        "checks": [precision],
        "rewrites": built["rewrites"],
        "peak_rss_bytes": peak_rss_bytes(),
    }


@dataclasses.dataclass
class _Logged:
    """Adds a stage's seconds to a log."""

    log: list[dict[str, Any]]
    name: str
    began: float = 0.0

    def __enter__(self) -> None:
        self.began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        seconds = round(time.monotonic() - self.began, 3)
        self.log.append({"name": self.name, "seconds": seconds, "cached": False})
