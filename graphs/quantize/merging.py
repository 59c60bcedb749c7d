"""Quantisers of one tensor become one again, where a runtime wants its GEMMs to share it.

`Quantizer` gives each GEMM codes of its own, a last bit apart, for ONNX Runtime. An engine writes the codes once, and
merges GEMMs that read the same ones. However many there are, the first step of a `Quantizer` is the smallest, and the
one that FP16 holds. Codes of another format stay what they are.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphs.constants import constant_value
from graphs.names import is_made


def merge_quantizers(graph: gs.Graph) -> int:
    """Gives all readers of codes that one `Quantizer` made the first of them, in place; returns how many are gone."""
    made: dict[tuple[int, str], list[tuple[float, gs.Variable]]] = {}
    for node in graph.nodes:
        quantize = node.inputs[0].inputs[0] if node.op == "DequantizeLinear" and node.inputs[0].inputs else None
        own = quantize is not None and quantize.op == "QuantizeLinear" and is_made(quantize.name, "quantize")
        step = _step(quantize) if own else None
        if quantize is not None and step is not None:
            key = id(quantize.inputs[0]), str(quantize.inputs[2].dtype)
            made.setdefault(key, []).append((step, node.outputs[0]))
    merged = [_merged(values) for values in made.values()]
    graph.cleanup(remove_unused_graph_inputs=False)
    return sum(merged)


def _merged(made: list[tuple[float, gs.Variable]]) -> int:
    """`made` are the values of one tensor's codes of one format, by their steps."""
    (_, first), *others = sorted(made, key=lambda each: each[0])
    for _, old in others:
        for reader in list(old.outputs):
            reader.inputs = [first if tensor is old else tensor for tensor in reader.inputs]
    return len(others)


def _step(quantize: gs.Node) -> float | None:
    step = constant_value(quantize.inputs[1])
    return None if step is None or step.size != 1 else float(step.item())
