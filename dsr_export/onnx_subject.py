"""`OnnxSubject`: an ONNX file as a model to export. Its reference is the file itself, run without optimisations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from dsr_export.backends.base import Array, Runner
from dsr_export.backends.onnxruntime import OnnxRuntimeRunner
from dsr_export.backends.segmented import SegmentedRunner
from dsr_export.examples import Draw, draw_below, draw_inputs
from dsr_export.probing import Limits, probe_outputs
from dsr_export.spec import DsrSpec
from dsr_export.subject import SubjectCard
from graphs.artifacts import TensorSpec, TracedModel
from graphs.dsr_domain import DOMAIN
from graphs.files import save_model
from graphs.foreign import adapt, batch_size, foreign_inputs, read_foreign
from graphs.index_bounds import index_bounds

SEED = 0


@dataclass(frozen=True, kw_only=True)
class OnnxSubject:
    """An ONNX model, checked. `sites` counts its symbolic ops; the other fields are those of `Subject`."""

    name: str
    path: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    sites: Mapping[str, int]
    batch_limits: Limits
    parameters: int
    draws: Mapping[str, Draw]
    dsr: DsrSpec = field(default_factory=DsrSpec)
    provenance: dict[str, Any] = field(default_factory=dict)
    num_classes: int = 0

    def card(self) -> SubjectCard:
        """What later stages need to know of the model; nobody says how an ONNX file is sampled."""
        return SubjectCard(
            name=self.name,
            family="onnx",
            inputs=self.inputs,
            outputs=self.outputs,
            dsr=self.dsr.as_dict(),
            sites=dict(self.sites),
            sampler=None,
            num_classes=self.num_classes,
            parameters=self.parameters,
            config={},
            provenance=self.provenance,
            fp32_modules=(),
            batch_limits=self.batch_limits,
        )

    def trace(self, path: Path) -> TracedModel:
        """Writes the file in our form to `path`, weights included."""
        model = adapt(read_foreign(self.path))
        onnx.load_external_data_for_model(model, str(self.path.parent))
        save_model(model, path)
        return TracedModel(path=path, sites=self.sites)

    def reference(self) -> Runner:
        """The original file in ONNX Runtime; segment by segment where it holds symbolic ops."""
        return reference_runner(self.path, self.inputs, self.sites)

    def release(self) -> None:
        """Nothing to give back: the weights stay in their file."""

    def example(self, batch: int, *, seed: int) -> dict[str, Array]:
        """Seeded inputs: normal, uniform `t`, integers within the table they index; rows do not depend on `batch`."""
        return draw_inputs(self.inputs, batch, seed=seed, draws=self.draws)


def load_onnx(path: Path, *, name: str, provenance: Mapping[str, Any]) -> OnnxSubject:
    """Checks the file and runs it once.

    Raises:
        ExportError: a file that is refused (see `graphs.foreign`), or that ONNX Runtime cannot run.
    """
    model = read_foreign(path)
    inputs, size = foreign_inputs(model), batch_size(model)
    sites = Counter(node.op_type for node in model.graph.node if node.domain == DOMAIN)
    draws = _draws(inputs, index_bounds(model))
    limits: Limits = (1, None) if size is None else (size, size)

    def example(batch: int) -> dict[str, Array]:
        return draw_inputs(inputs, batch, seed=SEED, draws=draws)

    with reference_runner(path, inputs, sites) as runner:
        outputs = probe_outputs(runner.infer, example, limits)
    return OnnxSubject(
        name=name,
        path=path,
        inputs=inputs,
        outputs=outputs,
        sites=sites,
        batch_limits=limits,
        parameters=sum(prod(tensor.dims) for tensor in model.graph.initializer),
        draws=draws,
        provenance=dict(provenance),
    )


def reference_runner(path: Path, inputs: tuple[TensorSpec, ...], sites: Mapping[str, int]) -> Runner:
    """The file as written, FP32, node by node."""
    if any(sites.values()):
        return SegmentedRunner(path, inputs=inputs)
    return OnnxRuntimeRunner(path, inputs=inputs, optimize=False)


def _draws(inputs: tuple[TensorSpec, ...], bounds: Mapping[str, int]) -> dict[str, Draw]:
    """Integers stay within the table they index; 0 and 1 are all that is safe where no table is found."""
    integers = [spec.name for spec in inputs if np.dtype(spec.dtype).kind in "iu"]
    return {name: draw_below(bounds.get(name, 2)) for name in integers}
