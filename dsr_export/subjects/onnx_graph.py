"""`OnnxSubject`: an ONNX file as a model to export. Its reference is the file itself, run without optimisations.

Sites that `--dsr` declares are inserted twice: into our form of the graph, which is lowered, and into the file's own
graph at its own opset, which the reference runs with the ops' definition at each site.
"""

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
from dsr_export.declarations.dsr_file import read_dsr_file
from dsr_export.errors import ExportError
from dsr_export.example_rows.drawn import Draw, draw_below, draw_inputs
from dsr_export.spec import DsrSpec
from dsr_export.storage.leftovers import scratch_folder
from dsr_export.subject import Described, SubjectCard
from dsr_export.subjects.onnx_insertion import insertable, with_sites
from dsr_export.tracing.probing import Limits, probe_outputs
from graphs.artifacts import TensorSpec, TracedModel
from graphs.dsr.domain import DOMAIN
from graphs.files import save_model
from graphs.foreign.brought_in import adapt, batch_size, foreign_inputs, name_nodes, read_foreign
from graphs.foreign.index_bounds import index_bounds
from graphs.foreign.opened import foreign_file
from graphs.observe.other_rounding import round_otherwise
from graphs.retrofit.insertion import Retrofit

SEED = 0
LARGE = 200_000_000  # weights


class OnnxFileRunner(OnnxRuntimeRunner):
    """The file node by node, which can also round otherwise where it is no large one: that takes its weights twice."""

    def __init__(self, path: Path, *, inputs: tuple[TensorSpec, ...], optimize: bool) -> None:
        super().__init__(path, inputs=inputs, optimize=optimize)
        self._path = path

    def infer_otherwise(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """As `infer`, each number on the way a step of FP32 off."""
        model = read_foreign(self._path)
        if sum(prod(tensor.dims) for tensor in model.graph.initializer) > LARGE:
            raise ExportError(f"{self._path} is too large to be held twice")
        stepped = round_otherwise(model).SerializeToString()
        runner = OnnxRuntimeRunner(stepped, inputs=self._specs, optimize=False, weights=self._path.parent)
        with runner:
            return runner.infer(inputs)


@dataclass(frozen=True, kw_only=True)
class OnnxSubject(Described):
    """An ONNX model, checked. `sites` counts its symbolic ops, those of `dsr` that are inserted or the file's own.

    The other fields are those of `Subject`; nobody says how an ONNX file is sampled.
    """

    family: str = "onnx"
    path: Path
    sites: Mapping[str, int]
    parameters: int
    draws: Mapping[str, Draw]
    dsr: DsrSpec = field(default_factory=DsrSpec)
    given: Mapping[str, Array] = field(default_factory=dict)
    special_rows: bool = True

    def card(self) -> SubjectCard:
        """What later stages need to know of the model."""
        counted = dict(self.sites)
        return SubjectCard(**self.described(), dsr=self.dsr.as_dict(), sites=counted, parameters=self.parameters)

    def trace(self, path: Path) -> TracedModel:
        """Writes the file in our form to `path`, weights included."""
        save_model(_complete(adapt(read_foreign(self.path)), self.path.parent, self.dsr), path)
        return TracedModel(path=path, sites=self.sites, batch_limits=self.batch_limits)

    def reference(self) -> Runner:
        """The original graph in ONNX Runtime; segment by segment where it holds symbolic ops, or is given some."""
        return reference_runner(self.path, self.inputs, self.sites, self.dsr)

    def release(self) -> None:
        """Nothing to give back: the weights stay in their file."""

    def example(self, batch: int, *, seed: int) -> dict[str, Array]:
        """Seeded inputs: normal, uniform `t`, integers within the table they index; rows do not depend on `batch`."""
        return draw_inputs(self.inputs, batch, seed=seed, draws=self.draws)


def load_onnx(path: Path, *, name: str, provenance: Mapping[str, Any], dsr: Path | None = None) -> OnnxSubject:
    """Checks the file, and the declaration `dsr` against its graph, and runs it once.

    Raises:
        ExportError: a file that is refused (see `graphs.foreign.brought_in`), that ONNX Runtime cannot run, or whose
            graph has no place for what `dsr` declares (see `graphs.retrofit.insertion`).
    """
    model = read_foreign(path)
    inputs, size = foreign_inputs(model), batch_size(model)
    own = Counter(node.op_type for node in model.graph.node if node.domain == DOMAIN)
    spec = DsrSpec() if dsr is None else _declared(dsr, own)
    sites = own if dsr is None else spec.sites()
    draws = _draws(inputs, index_bounds(model))
    limits: Limits = (1, None) if size is None else (size, size)

    def example(batch: int) -> dict[str, Array]:
        return draw_inputs(inputs, batch, seed=SEED, draws=draws)

    with reference_runner(path, inputs, sites, spec) as runner:
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
        dsr=spec,
        provenance={**provenance, **_counted(path, spec)},
    )


def _counted(path: Path, spec: DsrSpec) -> dict[str, str]:
    """What the layers of `spec` were counted on."""
    return {"residual_stream": Retrofit(_named(path), path.parent).stream.names} if any(spec.sites().values()) else {}


def _declared(dsr: Path, own: Mapping[str, int]) -> DsrSpec:
    if own:
        found = ", ".join(f"{count} {op}" for op, count in sorted(own.items()))
        raise ExportError(f"the graph holds symbolic dsr ops already ({found})", hint="build it without --dsr")
    return insertable(read_dsr_file(dsr))


def _named(path: Path) -> onnx.ModelProto:
    """The file's own graph, with the node names of ours."""
    model = read_foreign(path)
    name_nodes(model)
    return model


def _complete(model: onnx.ModelProto, folder: Path, spec: DsrSpec) -> onnx.ModelProto:
    """`model` with the sites that `spec` declares, and with its weights."""
    if any(spec.sites().values()):
        model = with_sites(Retrofit(model, folder), spec)
    with foreign_file(folder):  # onnx opens no file that has several hard links, for one
        onnx.load_external_data_for_model(model, str(folder))
    return model


def reference_runner(path: Path, inputs: tuple[TensorSpec, ...], sites: Mapping[str, int], spec: DsrSpec) -> Runner:
    """The file as written, FP32, node by node; with the sites of `spec`, if it declares any."""
    if any(spec.sites().values()):
        whole = _complete(_named(path), path.parent, spec)
        with scratch_folder("reference") as folder:  # the runner keeps what it has read
            return SegmentedRunner(save_model(whole, folder / "reference.onnx"), inputs=inputs)
    if any(sites.values()):
        return SegmentedRunner(path, inputs=inputs)
    return OnnxFileRunner(path, inputs=inputs, optimize=False)


def _draws(inputs: tuple[TensorSpec, ...], bounds: Mapping[str, int]) -> dict[str, Draw]:
    """Integers stay within the table they index; 0 and 1 are all that is safe where no table is found."""
    integers = [spec.name for spec in inputs if np.dtype(spec.dtype).kind in "iu"]
    return {name: draw_below(bounds.get(name, 2)) for name in integers}
