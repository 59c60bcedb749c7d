"""What each cached stage of a build writes into its folder, and how it is read back.

A stage reads its inputs from the folders of earlier stages and never from memory, so that a build can resume anywhere.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from calibration.range_audit import RangeAudit, RangeRecorder
from dsr_export.backends.base import Runner
from dsr_export.backends.engine_fit import platform_facts
from dsr_export.backends.gpu import compute_capability
from dsr_export.backends.onnxruntime import OnnxRuntimeRunner
from dsr_export.bundle.engines import engine_entry
from dsr_export.config import BatchRange
from dsr_export.parity.batch_calls import batches
from dsr_export.parity.checks import check_parity, fused_rows
from dsr_export.parity.finite import check_graph, check_reference
from dsr_export.parity.golden import Golden, fitted_sampler, make_golden
from dsr_export.parity.rows import ParityRow
from dsr_export.parity.tolerances import Tolerance
from dsr_export.progress import Bar
from dsr_export.reports.sample_strips import golden_strips
from dsr_export.runners import fused_runner, typed_runner
from dsr_export.sampling import SamplerSpec, trajectory
from dsr_export.subject import SubjectCard
from dsr_export.tap_stages import LARGE, check_sites, record_reference
from dsr_export.token_norms import measure_token_norms
from graphs.artifacts import LoweredModel, OptimizedModel, Precision, TracedModel
from graphs.files import load_model
from graphs.lowering import lower, optimize
from graphs.precision import PrecisionPolicy, sinusoidal_modules
from graphs.probes import RANGES, ProbedTensor, add_range_probes
from graphs.product_probes import add_product_probes, bound_probe
from graphs.targets import Target
from graphs.typed import assign_precision

if TYPE_CHECKING:
    from dsr_export.subject import ExportSubject

Folder = Path
LoadSubject = Callable[[], "ExportSubject"]
MODEL, CARD, GOLDEN, FACTS, PLAN = "model.onnx", "card.json", "golden.npz", "facts.json", "engine.plan"
LARGE_STEPS = 6  # walking a large model over its whole sampler would take a CPU an hour


def trace_subject(load: LoadSubject, folder: Folder, _: Bar) -> None:
    """The symbolic graph, and the card: the code may turn out to take fewer batches than were declared."""
    subject = load()
    graph = subject.trace(folder / MODEL)
    card = dataclasses.replace(subject.card(), batch_limits=graph.batch_limits, batch_reason=graph.batch_reason)
    card.save(folder / CARD)


def traced(folder: Folder) -> TracedModel:
    return TracedModel(path=folder / MODEL, sites=SubjectCard.load(folder / CARD).sites)


def make_reference(load: LoadSubject, batch: BatchRange, sampler: SamplerSpec | None, folder: Folder, bar: Bar) -> None:
    """Golden vectors from the FP32 reference, and how many special rows it has no steady answer for."""
    subject = load()
    with subject.reference() as runner:
        golden = make_golden(subject, runner, batch=batch, sampler=sampler, progress=bar)
    check_reference(golden)
    golden.save(folder / GOLDEN)
    write_json(folder / FACTS, {"tried": golden.tried, "left_out": golden.left_out})
    record_reference(subject, golden, sampler, batch, folder)


def golden(folder: Folder) -> Golden:
    with np.load(folder / GOLDEN, allow_pickle=False) as arrays:
        return Golden.from_arrays(dict(arrays))


def parity_sampler(card: SubjectCard, batch: BatchRange, steps: int | None) -> SamplerSpec | None:
    """The sampler that parity and the range audit walk: the model's own, with fewer steps for a large model."""
    if card.sampler is None:
        return None
    chosen = steps or (min(LARGE_STEPS, card.sampler.num_steps) if card.parameters > LARGE else card.sampler.num_steps)
    return fitted_sampler(dataclasses.replace(card.sampler, num_steps=chosen), batch)


def lower_graph(source: Folder, folder: Folder, _: Bar) -> None:
    reports = lower(traced(source), folder / MODEL)[1]
    write_json(folder / FACTS, {report.name: report.as_dict() for report in reports})


def optimize_graph(source: Folder, folder: Folder, _: Bar) -> None:
    reports = optimize(LoweredModel(path=source / MODEL), folder / MODEL)[1]
    write_json(folder / FACTS, {report.name: report.as_dict() for report in reports})


def audit_ranges(
    source: Folder, card: SubjectCard, golden: Golden, sampler: SamplerSpec | None, folder: Folder, bar: Bar
) -> None:
    """The range of every tensor over a whole trajectory (or the golden batches, where there is none).

    Raises:
        ExportError: the graph makes NaN or an infinity in an output where the reference made none.
    """
    model = OptimizedModel(path=source / MODEL)
    probed = folder / "probed.onnx"
    watched = partial(_watched_ranges, probed, model, card, golden, sampler, bar)
    audit = watched(add_range_probes(model, probed, bound_probe))
    long = audit.long_sums()
    if long:  # by a bound that is quick and not tight
        audit = audit.with_products(watched(add_product_probes(model, probed, long)).products)
    write_json(folder / FACTS, dataclasses.asdict(audit))


def _watched_ranges(
    probed: Path,
    model: OptimizedModel,
    card: SubjectCard,
    golden: Golden,
    sampler: SamplerSpec | None,
    bar: Bar,
    probes: list[ProbedTensor],
) -> RangeAudit:
    """What the probes in the graph `probed`, which is removed again, saw."""
    recorder = RangeRecorder(probes)
    with OnnxRuntimeRunner(probed, inputs=card.inputs) as runner:

        def observed(inputs: dict[str, Any], reference: Mapping[str, Any] | None = None) -> Any:
            outputs = runner.infer(inputs)
            recorder.observe(outputs.pop(RANGES))
            check_graph(model.path, inputs, outputs, card.inputs, reference)
            return outputs[card.outputs[0].name]

        for case in golden.cases.values():
            observed(dict(case.inputs), case.outputs)
        for case in golden.further.values():
            parts = zip(batches(case.inputs, golden.batch), batches(case.outputs, golden.batch), strict=True)
            for inputs, outputs in parts:
                observed(inputs, outputs)
        if sampler is not None and golden.trajectory is not None:
            for step in trajectory(observed, sampler, golden.trajectory.noise, golden.trajectory.labels):
                bar(step.index + 1, sampler.num_steps - 1)
    for path in probed.parent.glob(f"{probed.name}*"):
        path.unlink()
    return recorder.audit()


def range_audit(folder: Folder) -> RangeAudit:
    return RangeAudit(**read_json(folder / FACTS))


def measure_norms(source: Folder, card: SubjectCard, golden: Golden, folder: Folder, _: Bar) -> None:
    """Token norms around the replacement sites; null where there are none."""
    write_json(folder / FACTS, measure_token_norms(source / MODEL, card, golden, folder))


def type_graph(
    source: Folder, card: SubjectCard, audit: RangeAudit, precision: Precision, folder: Folder, _: Bar
) -> None:
    modules = card.fp32_modules
    if precision == "int8":  # beside 8-bit GEMMs, FP16 embedders and final layers cost no accuracy, and half the bytes
        modules = sinusoidal_modules(load_model(source / MODEL, weights=False), modules)
    wide = audit.wide_tensors(precision)
    policy = PrecisionPolicy(fp32_modules=modules, wide_tensors=wide, maxima=audit.maxima)
    report = assign_precision(OptimizedModel(path=source / MODEL), folder / MODEL, precision, policy)[1]
    write_json(folder / FACTS, report.as_dict())


def machine(target: Target) -> dict[str, str | None]:
    """What an engine depends on beside its graph: a cache that is shared, or older than the GPU, must not serve it."""
    return {**platform_facts(), "gpu": compute_capability() if target.needs_gpu_to_build else None}


def compile_engine(
    source: Folder, card: SubjectCard, target: Target, batch: BatchRange, folder: Folder, _: Bar
) -> None:
    from dsr_export.backends.tensorrt import build_engine

    engine = build_engine(source / MODEL, target, batch=batch, inputs=card.inputs)
    (folder / PLAN).write_bytes(engine.plan)
    write_json(folder / FACTS, engine.facts)


@dataclass(frozen=True, kw_only=True)
class ParityJob:
    """What every candidate of one build is compared with. `taps` is the file of the reference's values inside."""

    card: SubjectCard
    golden: Golden
    sampler: SamplerSpec | None
    precision: Precision
    tolerance: Tolerance
    batch: BatchRange
    taps: Path

    def typed_graph(self, source: Folder, folder: Folder, bar: Bar) -> None:
        """ONNX Runtime on the typed graph, and the error at each of its sites."""
        model, inputs = source / MODEL, self.card.inputs
        opening = partial(fused_runner, model, inputs, self.precision)
        fused = fused_rows(opening, self.golden, OnnxRuntimeRunner.name, self.tolerance)
        report = self._check(typed_runner(model, inputs, self.precision), bar, fused)
        passed = bool(report["passed"])
        sites = check_sites(self.taps, model, self.card, self.precision, self.batch, passed=passed)
        write_json(folder / FACTS, report | sites)

    def engine(self, target: Target, source: Folder, folder: Folder, bar: Bar) -> None:
        """The compiled engine, where a GPU is."""
        from dsr_export.backends.engine_fit import EngineNeeds
        from dsr_export.backends.tensorrt_runner import TensorRTRunner

        needs = EngineNeeds.of_entry(engine_entry(target, read_json(source / FACTS)))
        runner = TensorRTRunner(source / PLAN, backend=target.backend, inputs=self.card.inputs, needs=needs)
        write_json(folder / FACTS, self._check(runner, bar))

    def _check(self, runner: Runner, bar: Bar, fused: Sequence[ParityRow] = ()) -> dict[str, Any]:
        with runner:
            report = check_parity(runner, self.golden, self.sampler, self.tolerance, bar, fused=fused)
        samples = golden_strips(self.golden, report.sample, runtime=runner.name)
        return {**report.as_dict(), "samples": samples}


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True), encoding="utf-8")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
