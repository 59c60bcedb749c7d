"""Two graphs side by side, by the names of their nodes; no weight is read."""

from __future__ import annotations

from collections import Counter
from typing import Any

import onnx


def graph_difference(a: onnx.ModelProto, b: onnx.ModelProto) -> dict[str, Any]:
    """`operators` (op -> counts, where they differ), and the nodes that one side lacks or that are another op."""
    counts = [Counter(node.op_type for node in model.graph.node) for model in (a, b)]
    left, right = _named(a), _named(b)
    return {
        "nodes": {"a": len(a.graph.node), "b": len(b.graph.node)},
        "operators": {
            op: {"a": counts[0][op], "b": counts[1][op]}
            for op in sorted({*counts[0], *counts[1]})
            if counts[0][op] != counts[1][op]
        },
        "nodes_added": sorted(right.keys() - left.keys()),
        "nodes_removed": sorted(left.keys() - right.keys()),
        "nodes_changed": sorted(name for name in left.keys() & right.keys() if _form(left[name]) != _form(right[name])),
    }


def _named(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {node.name: node for node in model.graph.node if node.name}


def _form(node: onnx.NodeProto) -> tuple[str, str, list[bytes]]:
    """What a node does; the names of its tensors say nothing and change from build to build."""
    return node.domain, node.op_type, sorted(attribute.SerializeToString() for attribute in node.attribute)
