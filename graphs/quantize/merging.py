"""Quantisers of one tensor become one again, where a runtime wants its GEMMs to share it.

`Quantizer` gives each GEMM codes of its own, a last bit apart, for ONNX Runtime. An engine writes the codes once, and
merges GEMMs that read the same ones.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphs.constants import constant_value
from graphs.quantize.quantizers import held_step

Key = tuple[int, float]


def merge_quantizers(graph: gs.Graph) -> int:
    """Gives all readers of equal codes the first of them, in place; returns how many quantisers are gone."""
    first: dict[Key, gs.Variable] = {}
    merged = 0
    for node in list(graph.nodes):
        if node.op != "DequantizeLinear" or not node.inputs[0].inputs:
            continue
        key = _key(node.inputs[0].inputs[0])
        if key is None or key not in first:
            if key is not None:
                first[key] = node.outputs[0]
            continue
        old = node.outputs[0]
        for reader in list(old.outputs):
            reader.inputs = [first[key] if tensor is old else tensor for tensor in reader.inputs]
        merged += 1
    graph.cleanup(remove_unused_graph_inputs=False)
    return merged


def _key(quantize: gs.Node) -> Key | None:
    """What is quantised, and the step that FP16 holds at or above its own, less the bits that keep equal ones apart."""
    step = constant_value(quantize.inputs[1])
    if step is None or step.size != 1:
        return None
    return id(quantize.inputs[0]), float(held_step(float(step.item()) * (1 - 2.0**-18)))
