"""Stage specs: what must hold of a graph between two stages. A violation is our bug or an unsupported model; it stops
the build with the node's name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import onnx

from graphs.builders import CONTRIB
from graphs.errors import ExportError

Check = Callable[[onnx.ModelProto], Iterable[str]]

STANDARD_DOMAINS = frozenset({"", "ai.onnx"})
RUNTIME_OPS = frozenset({"MultiHeadAttention", "RotaryEmbedding"})
"""The operators of ONNX Runtime's own that our rewrites make."""
ENGINE_DOMAIN, DYNAMIC_FOUR_BIT = "trt", "TRT_FP4DynamicQuantize"
"""The one operator of TensorRT's own that our rewrites make, for FP4 alone."""
DATA_DEPENDENT = frozenset({"NonZero", "Unique", "Compress", "If", "Loop", "Scan", "NonMaxSuppression"})


@dataclass(frozen=True)
class StageSpec:
    """A named conjunction of checks."""

    stage: str
    checks: tuple[Check, ...]

    def verify(self, model: onnx.ModelProto) -> None:
        """Raises `ExportError` with up to five violations."""
        problems = [problem for check in self.checks for problem in check(model)]
        if problems:
            shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
            raise ExportError(f"the {self.stage} graph breaks its spec: {shown}", hint=_HINT)


_HINT = "an unsupported model or a bug in dsr-export; `dsr-export inspect` shows the graph"


def traced_spec(sites: Mapping[str, int]) -> StageSpec:
    """Symbolic sites as declared, everything named."""
    return StageSpec("traced", (unique_names, defined_inputs, _declared_sites(sites)))


def lowered_spec() -> StageSpec:
    """Standard, static ops only."""
    return StageSpec("lowered", (unique_names, defined_inputs, standard_ops, static_ops))


def optimized_spec() -> StageSpec:
    return StageSpec("optimized", lowered_spec().checks)


def unique_names(model: onnx.ModelProto) -> Iterable[str]:
    count = Counter(node.name for node in model.graph.node)
    return [f"{number} nodes are named '{name}'" for name, number in count.items() if number > 1 or not name]


def defined_inputs(model: onnx.ModelProto) -> Iterable[str]:
    """Every tensor is made before it is read (the order of nodes is topological)."""
    graph = model.graph
    known = {""} | {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        for name in node.input:
            if name not in known:
                yield f"{node.name} reads '{name}', which nothing before it makes"
        known.update(node.output)
    for value in graph.output:
        if value.name not in known:
            yield f"output '{value.name}' is never made"


def is_known(node: onnx.NodeProto, *, own: bool) -> bool:
    """Whether the operator is standard, that of engines or, where those are `own`, one of ONNX Runtime's alone."""
    runtime = own and node.domain == CONTRIB and node.op_type in RUNTIME_OPS
    return node.domain in STANDARD_DOMAINS or is_engine_op(node) or runtime


def standard_ops(model: onnx.ModelProto) -> Iterable[str]:
    return (problem for node, problem in _other_ops(model))


def engine_ops(model: onnx.ModelProto) -> Iterable[str]:
    """As `standard_ops`, of a graph that may be for engines alone."""
    return (problem for node, problem in _other_ops(model) if not is_engine_op(node))


def _other_ops(model: onnx.ModelProto) -> Iterable[tuple[onnx.NodeProto, str]]:
    for node in model.graph.node:
        if node.domain not in STANDARD_DOMAINS:
            yield node, f"{node.name} is {node.domain}.{node.op_type}, no standard op"


def is_engine_op(node: onnx.NodeProto) -> bool:
    """Whether it is the operator that TensorRT has and ONNX lacks."""
    return node.domain == ENGINE_DOMAIN and node.op_type == DYNAMIC_FOUR_BIT


def static_ops(model: onnx.ModelProto) -> Iterable[str]:
    for node in model.graph.node:
        if node.op_type in DATA_DEPENDENT:
            yield f"{node.name} is {node.op_type}, whose shape or flow depends on data"


def _declared_sites(sites: Mapping[str, int]) -> Check:
    def check(model: onnx.ModelProto) -> Iterable[str]:
        count = Counter(node.op_type for node in model.graph.node if node.domain == "dsr")
        for op in sorted(set(sites) | set(count)):
            if count[op] != sites.get(op, 0):
                yield f"{count[op]} {op} nodes where the DSR spec declares {sites.get(op, 0)}"

    return check
