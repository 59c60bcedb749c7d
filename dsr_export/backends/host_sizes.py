"""Which nodes of a graph compute shapes alone: runtimes keep those on the host, where they are needed."""

from __future__ import annotations

import onnx

_SOURCES = frozenset({"Shape", "Size"})


def host_sizes(model: onnx.ModelProto | bytes) -> frozenset[str]:
    """Names of nodes whose inputs are shapes, and constants beside them."""
    graph = (onnx.load_model_from_string(model) if isinstance(model, bytes) else model).graph
    constants = {tensor.name for tensor in graph.initializer} | {""}
    sizes: set[str] = set()
    found: set[str] = set()
    for node in graph.node:
        read = {name for name in node.input if name not in constants}
        if node.op_type == "Constant":
            constants |= {*node.output}
        elif node.op_type in _SOURCES or (read and read <= sizes):
            sizes |= {*node.output}
            found.add(node.name)
    return frozenset(found - {""})
