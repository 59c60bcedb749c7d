"""What leads to a softmax: scores that are scaled, biased and masked on their way.

A mask holds what a half type cannot: finfo.min rounds to -inf, and a row that it fills is uniform in FP32 and NaN in
half; beside -1e4, half has steps of 8, and the scores of such a row are lost. The softmax computes in FP32 anyway, so
that what is added in front of it costs nothing there.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx_graphsurgeon as gs

CHOOSING = frozenset({"ReduceMax", "ReduceMin"})
"""A softmax written out subtracts the largest score first."""


def score_islands(
    graph: gs.Graph, softmax: Collection[str], islands: Collection[str], ops: Collection[str]
) -> set[str]:
    """The names of the nodes of `ops` that lead to a node of `softmax`, and otherwise only to FP32 `islands`.

    The graph's nodes must be in topological order; a graph output has a reader outside.
    """
    kept = {id(tensor) for tensor in graph.outputs}
    inside: set[str] = set()
    for node in reversed(graph.nodes):
        if node.op not in ops or any(id(tensor) in kept for tensor in node.outputs):
            continue
        readers = [reader.name for tensor in node.outputs for reader in tensor.outputs]
        leads = any(name in softmax or name in inside for name in readers)
        if leads and all(name in islands or name in inside for name in readers):
            inside.add(node.name)
    return inside - set(islands)
