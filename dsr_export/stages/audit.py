"""`audit`: the range of every tensor over a whole trajectory, or the golden batches where there is none."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from calibration.range_audit import RangeAudit, RangeRecorder
from dsr_export.backends.onnxruntime import OnnxRuntimeRunner
from dsr_export.parity.batch_calls import batches, remembered
from dsr_export.parity.finite import check_graph
from dsr_export.progress import Bar
from dsr_export.sampling import SamplerSpec, trajectory
from dsr_export.stages.calibrate import Calibrated
from dsr_export.stages.optimize import Optimized
from dsr_export.stages.reference import Reference
from dsr_export.stages.stage import FACTS, Result, Stage, write_json
from dsr_export.storage.cache import CachedStage
from dsr_export.subject import SubjectCard
from graphs.observe.probes import RANGES, ProbedTensor, add_range_probes
from graphs.observe.product_probes import add_product_probes, bound_probe

PROBED = "probed.onnx"


class _NotFinite(Exception):
    """A tensor inside holds infinities or NaN, and quick probes do not look past them."""


@dataclass(frozen=True)
class Audited(Result):
    """Which tensors a low type can't hold."""

    @cached_property
    def audit(self) -> RangeAudit:
        return RangeAudit(**self.facts)


@dataclass(frozen=True, kw_only=True)
class AuditRanges(Stage[Audited]):
    """Runs the FP32 graph with a probe at each tensor.

    Raises:
        ExportError: the graph makes NaN or an infinity in an output where the reference made none.
    """

    name: ClassVar[str] = "audit"
    source: Optimized | Calibrated
    card: SubjectCard
    reference: Reference
    sampler: SamplerSpec | None

    def work(self, folder: Path, bar: Bar) -> None:
        probed, model = folder / PROBED, self.source.model
        try:
            audit = self._watched(probed, add_range_probes(model, probed, bound_probe, quick=True), bar)
        except _NotFinite:  # by right, as masks are
            audit = self._watched(probed, add_range_probes(model, probed, bound_probe), bar)
        long = audit.long_sums()
        if long:  # by a bound that is quick and not tight
            exact = self._watched(probed, add_product_probes(model, probed, long), bar)
            audit = audit.with_products(exact.products)
        write_json(folder / FACTS, dataclasses.asdict(audit))

    def result(self, made: CachedStage) -> Audited:
        return Audited(made)

    def _watched(self, probed: Path, probes: list[ProbedTensor], bar: Bar) -> RangeAudit:
        """What the probes in the graph `probed`, which is removed again, saw. `_NotFinite`: they do not know."""
        try:
            return self._seen(probed, probes, bar)
        finally:
            for path in probed.parent.glob(f"{probed.name}*"):
                path.unlink()

    def _seen(self, probed: Path, probes: list[ProbedTensor], bar: Bar) -> RangeAudit:
        recorder, golden = RangeRecorder(probes), self.reference.golden
        # As written: probes on every tensor leave nothing to fuse, and looking for it takes more than linear time.
        with OnnxRuntimeRunner(probed, inputs=self.card.inputs, optimize=False) as runner:
            once = remembered(runner.infer)

            def observed(inputs: dict[str, Any], reference: Mapping[str, Any] | None = None) -> Any:
                outputs = (runner.infer if reference is None else once)(inputs)  # no call of a walk comes again
                ranges = outputs.pop(RANGES)
                if np.isnan(ranges).any():
                    raise _NotFinite
                recorder.observe(ranges)
                check_graph(self.source.model.path, inputs, outputs, self.card.inputs, reference)
                return outputs[self.card.outputs[0].name]

            for case in golden.cases.values():
                observed(dict(case.inputs), case.outputs)
            for case in golden.further.values():
                parts = zip(batches(case.inputs, golden.batch), batches(case.outputs, golden.batch), strict=True)
                for inputs, outputs in parts:
                    observed(inputs, outputs)
            if self.sampler is not None and golden.trajectory is not None:
                for step in trajectory(observed, self.sampler, golden.trajectory.noise, golden.trajectory.labels):
                    bar(step.index + 1, self.sampler.num_steps - 1)
        return recorder.audit()
