"""TracedModel -> LoweredModel -> OptimizedModel: `dsr` ops become static standard ops, then the graph gets cheaper."""

from __future__ import annotations

from pathlib import Path

import onnx_graphsurgeon as gs

from graphs.artifacts import LoweredModel, OptimizedModel, TracedModel
from graphs.files import load_graph, load_inferred_graph, load_model, save_graph
from graphs.rewrite import RewriteReport, operator_change, operator_counts, run, run_first
from graphs.rewrites import LOWERINGS, OPTIMIZATIONS
from graphs.stage_specs import lowered_spec, optimized_spec, traced_spec

FOLD_LIMIT = 1 << 20  # bytes: a folded constant larger than this is not worth its place in the file


def lower(traced: TracedModel, path: Path) -> tuple[LoweredModel, list[RewriteReport]]:
    """Applies the lowerings; those of one op must find exactly its declared number of sites between them.

    Raises:
        ExportError: another number of sites, naming the near misses; or a broken stage spec.
    """
    traced_spec(traced.sites).verify(load_model(traced.path, weights=False))
    graph = load_graph(traced.path)
    reports = []
    for op, rewrites in LOWERINGS:
        reports += run_first(graph, rewrites, expected=traced.sites.get(op, 0))
    save_graph(graph, path)
    lowered_spec().verify(load_model(path, weights=False))
    return LoweredModel(path=path), reports


def optimize(lowered: LoweredModel, path: Path) -> tuple[OptimizedModel, list[RewriteReport]]:
    """Folds what depends on constants alone, drops dead nodes, and applies the optimizations wherever they match.

    The numbers stay the same, to FP32 rounding.
    """
    graph = load_graph(lowered.path)
    folded = _fold_constants(graph)
    save_graph(graph, path)
    graph = load_inferred_graph(path)  # an axis counted from the front is the last one only in a known shape
    reports = [folded, *(run(graph, rewrite) for rewrite in OPTIMIZATIONS)]
    save_graph(_named(graph), path)
    optimized_spec().verify(load_model(path, weights=False))
    return OptimizedModel(path=path), reports


def _fold_constants(graph: gs.Graph) -> RewriteReport:
    before, names, operators = len(graph.nodes), {node.name for node in graph.nodes}, operator_counts(graph)
    graph.fold_constants(size_threshold=FOLD_LIMIT)
    graph.cleanup(remove_unused_graph_inputs=False)
    folded = tuple(sorted(names - {node.name for node in graph.nodes}))
    change = operator_change(operators, operator_counts(graph))
    return RewriteReport("fold_constants", folded, (), before, len(_named(graph).nodes), change)


def _named(graph: gs.Graph) -> gs.Graph:
    """Folding may leave nodes without a name."""
    for i, node in enumerate(graph.nodes):
        node.name = node.name or f"root/{node.op}_folded_{i}"
    return graph
