"""Re-checks a bundle anywhere, without torch: hashes, precision, and the golden vectors in each runtime at hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dsr_export.backends.engines_here import engines_not_run
from dsr_export.backends.opening import chosen_engine
from dsr_export.backends.runtime_names import Runtime, runner_name
from dsr_export.bundle.reader import MODEL, Bundle
from dsr_export.bundle.signature_file import PublicKey
from dsr_export.parity.checks.table import ParityReport
from dsr_export.parity.golden.reader import read_golden
from dsr_export.parity.golden.vectors import Golden
from dsr_export.peak_memory import peak_rss_bytes
from dsr_export.progress import Reporter, Silent
from dsr_export.readable import readable
from dsr_export.reports.record import Check, NotRun, Picture, Report, Row, StageTime
from dsr_export.reports.sample_strips import golden_strips
from dsr_export.reports.stage_names import component_prefix
from dsr_export.reports.summary import components_summary
from dsr_export.sites.search import search_sites
from dsr_export.storage.made_with import tool_versions
from dsr_export.verification.model_checks import VERIFIED, Opened, run_checks
from dsr_export.verification.runtime_checks import Stages, check_other_graphs, check_runtime, check_step_graphs
from graphs.files import load_model
from graphs.precisions import quantized_precisions, report_key
from graphs.weights.element_types import low_precision_fraction

CARRIED = (
    "model",
    "batch",
    "special_rows",
    "rewrites",
    "rewrite_details",
    "token_norms",
    "typing",
    "range_audit",
    "engines",
    "fused_step",
    "advice",
    *map(report_key, quantized_precisions()),
    "sites",
    "tensors",
)
"""What only the build could find out: its report's word for it, where it has one."""


def verify(
    path: Path,
    *,
    runtime: Runtime = "auto",
    sites: bool = False,
    reporter: Reporter | None = None,
    trust: Sequence[PublicKey] = (),
) -> dict[str, Any]:
    """`verified`, as the values that are printed."""
    return verified(path, runtime=runtime, sites=sites, reporter=reporter, trust=trust).as_dict()


def verified(
    path: Path,
    *,
    runtime: Runtime = "auto",
    sites: bool = False,
    reporter: Reporter | None = None,
    trust: Sequence[PublicKey] = (),
) -> Report:
    """Returns a report of the same form as a build's; `passed` is the verdict over all components. Writes nothing.

    `auto` checks ONNX Runtime, and the engine as well where a GPU can run it. A model that fails is compared site by
    site with the reference, to find where it goes wrong; with `sites`, one that passes is too. With `trust`, nothing
    is read of a bundle that none of these keys signed.

    Raises:
        ExportError: a file was altered, none of `trust` signed it, or the runtime asked for can't run here.
    """
    stages = Stages(reporter or Silent())
    with stages.stage("hashes", "hashes"):
        bundle = Bundle.open(path, trust=trust)
    verdicts = [_judge(bundle, runtime, sites, stages)]
    for role, component in bundle.components.items():
        inner = dataclasses.replace(stages, prefix=component_prefix(role))
        verdicts.append(_judge(component, runtime, sites, inner).of(role))
    signed_by = bundle.signature.key.fingerprint if trust and bundle.signature else None
    return _report(bundle, verdicts, stages.log).changed(signed_by=signed_by)


def runtimes_of(bundle: Bundle, runtime: Runtime) -> dict[Runtime, str]:
    """What `runtime` stands for on this machine: each runtime to open, and what its runner is called."""
    if runtime != "auto":
        return {runtime: runner_name(runtime)}
    engine = chosen_engine(bundle, "auto")
    return {"onnxruntime": "onnxruntime", **({} if engine is None else {"auto": engine.backend})}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Verdict:
    """What was found of one model."""

    passed: bool
    rows: tuple[Row, ...]
    checks: tuple[Check, ...]
    trajectory_snr_db: tuple[float, ...]
    samples: tuple[dict[str, Any], ...]
    images: tuple[Picture, ...]
    not_run: tuple[NotRun, ...]
    bisection: Mapping[str, Any] | None

    def of(self, role: str) -> _Verdict:
        """The same, each row and check marked as one of the component `role`."""
        return dataclasses.replace(
            self,
            rows=tuple(dataclasses.replace(each, component=role) for each in self.rows),
            checks=tuple(dataclasses.replace(each, component=role) for each in self.checks),
            not_run=tuple(dataclasses.replace(each, component=role) for each in self.not_run),
            bisection=None if self.bisection is None else {"component": role, **self.bisection},
        )


def _judge(bundle: Bundle, runtime: Runtime, sites: bool, stages: Stages) -> _Verdict:
    """The golden vectors of one model in each runtime, and its checks."""
    golden = read_golden(bundle)
    checked, samples = [], []
    steps: dict[str, ParityReport] = {}
    runtimes = list(runtimes_of(bundle, runtime))
    for each in runtimes:
        runner, report = check_runtime(bundle, each, golden, stages)
        checked.append(report)
        samples += golden_strips(golden, report.sample, runtime=runner)
        steps |= check_step_graphs(bundle, each, golden, stages)
    checks = _model_checks(bundle, golden, checked[0])
    others = check_other_graphs(bundle, golden, stages) if "onnxruntime" in runtimes else {}
    not_run = tuple(NotRun(**engine) for engine in engines_not_run(bundle, runtimes))
    for left in not_run:
        stages.reporter.note(f"{stages.prefix}{left.engine} was not run here: {left.reason}")
    in_tolerance = all(each.passed for each in (*checked, *others.values()))
    steps_pass = all(each.passed for each in steps.values())
    bisection = None
    if sites or not in_tolerance:
        with stages.stage("sites", "site by site"):
            engine, graph = _failing_engine(runtimes, checked), _failing_graph(checked, others)
            bisection = search_sites(bundle, failed=not in_tolerance, engine=engine, graph=graph)
    return _Verdict(
        passed=all(check.passed for check in checks) and in_tolerance and steps_pass,
        bisection=bisection,
        rows=(
            *(Row.of(row) for each in checked for row in each.rows),
            *(Row.of(row, target=place) for place, each in others.items() for row in each.rows),
            *(Row.of(row, target=place) for place, each in steps.items() for row in each.rows),
        ),
        checks=tuple(checks),
        not_run=not_run,
        trajectory_snr_db=checked[0].trajectory_snr_db,
        samples=tuple(samples),
        images=tuple(Picture.of(row) for each in checked for row in each.images),
    )


def _model_checks(bundle: Bundle, golden: Golden, first: ParityReport) -> list[Check]:
    """`first` is what was found of the ONNX graph. What engines are built from has its precision, too."""
    precision = bundle.manifest.precision
    graphs = [load_model(bundle.file(name), weights=False) for name in bundle.graphs]
    narrow = min(low_precision_fraction(graph, precision) for graph in graphs)
    opened = Opened(precision=precision, narrow=narrow, bundle=bundle, graphs=graphs, golden=golden, rows=first.rows)
    return run_checks(VERIFIED, opened, precision)


def _failing_engine(runtimes: list[Runtime], checked: list[ParityReport]) -> Runtime | None:
    """The engine, where it fails and ONNX Runtime does not."""
    passed = {runtime: report.passed for runtime, report in zip(runtimes, checked, strict=True)}
    engines = [runtime for runtime in runtimes if runtime != "onnxruntime" and not passed[runtime]]
    return engines[0] if engines and passed.get("onnxruntime", True) else None


def _failing_graph(checked: list[ParityReport], others: Mapping[str, ParityReport]) -> str:
    """What to search in ONNX Runtime: a graph beside `model.onnx`, where none but such fail."""
    failing = [place for place, report in others.items() if not report.passed]
    return failing[0] if failing and all(report.passed for report in checked) else MODEL


def _first_fault(verdicts: list[_Verdict]) -> Mapping[str, Any] | None:
    """Of the first model that has one; else what was measured of the bundle's own."""
    found = [each.bisection for each in verdicts if each.bisection is not None]
    return next((each for each in found if each["site"] is not None), found[0] if found else None)


def _report(bundle: Bundle, verdicts: list[_Verdict], log: list[StageTime]) -> Report:
    """`verdicts` of the bundle's own model, and then of its components."""
    built, own = bundle.report(), verdicts[0]
    carried = {key: built[key] for key in CARRIED if key in built}
    return Report(
        sections=carried,
        from_build=tuple(sorted(carried)),
        bundle=readable(str(bundle.path)),
        passed=all(each.passed for each in verdicts),
        precision=bundle.manifest.precision,
        target=bundle.manifest.targets[0].name,
        targets=tuple(each.name for each in bundle.manifest.targets),
        stages=tuple(log),
        parity=tuple(row for each in verdicts for row in each.rows),
        trajectory_snr_db=own.trajectory_snr_db,
        samples=own.samples,
        images=own.images,
        bisection=_first_fault(verdicts),
        checks=tuple(check for each in verdicts for check in each.checks),
        engines_not_run=tuple(each for verdict in verdicts for each in verdict.not_run),
        manifest_digest=bundle.manifest.digest,
        components=components_summary(bundle.components),
        files={name: entry.size for name, entry in sorted(bundle.manifest.files.items())},
        tools=tool_versions(),
        peak_rss_bytes=peak_rss_bytes(),
    )
