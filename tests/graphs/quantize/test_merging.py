"""Quantisers of one tensor as one: its step is the one that FP16 holds, however many there were."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from graphs.builders import NodeBuilder
from graphs.quantize.formats import FP8, INT8
from graphs.quantize.four_bit import four_bit_values
from graphs.quantize.merging import merge_quantizers
from graphs.quantize.quantizers import Quantizer


def _graph(readers: int, step: float) -> gs.Graph:
    """GEMMs of one tensor, each with codes of its own; the last ones stand first."""
    x = gs.Variable("x", np.float32, ("batch", 4))
    graph = gs.Graph(inputs=[x], opset=20)
    quantizer = Quantizer(x, step)
    for i in range(readers):
        build = NodeBuilder(graph, "quantize", f"heads.{i}")
        weight = build.constant("weight", np.ones((4, 4), np.float32))
        out = build.op("MatMul", [quantizer.values(build), weight], "product")
        out.dtype, out.shape = np.dtype(np.float32), ("batch", 4)
        graph.outputs.append(out)
    graph.nodes.reverse()
    return graph


@pytest.mark.parametrize("step", [0.01, 1e-6], ids=["held by FP16", "smaller"])
@pytest.mark.parametrize("readers", [1, 2, 100])
def test_all_read_the_codes_of_the_first_step(readers: int, step: float) -> None:
    graph = _graph(readers, step)
    first = graph.outputs[0].inputs[0].inputs[0].inputs[0].inputs[1].values
    assert merge_quantizers(graph) == readers - 1
    (left,) = (node for node in graph.nodes if node.op == "DequantizeLinear")
    assert left.inputs[1].values == first
    assert [node.inputs[0] is left.outputs[0] for node in graph.nodes if node.op == "MatMul"] == [True] * readers


def test_a_models_own_quantisers_are_left_alone() -> None:
    graph = _graph(2, 0.01)
    for node in graph.nodes:
        node.name = node.name.replace("dsr/quantize/", "")
    assert merge_quantizers(graph) == 0


def test_codes_of_another_format_are_no_codes_of_this_one() -> None:
    graph = _graph(2, 0.01)
    (x,) = graph.inputs
    other = Quantizer(x, 0.001, FP8)
    for i in range(2):
        build = NodeBuilder(graph, "quantize", f"floats.{i}")
        weight = build.constant("weight", np.ones((4, 4), np.float32))
        graph.outputs.append(build.op("MatMul", [other.values(build), weight], "product"))
    assert merge_quantizers(graph) == 2
    read = [node.inputs[0].inputs[0].inputs[2].dtype for node in graph.nodes if node.op == "MatMul"]
    assert sorted(map(str, read)) == sorted([str(INT8.dtype)] * 2 + [str(FP8.dtype)] * 2)


def test_scales_of_blocks_are_no_codes() -> None:
    """They are dequantised, too, and what reads them is no GEMM."""
    graph = _graph(1, 0.01)
    (x,) = graph.inputs
    build = NodeBuilder(graph, "quantize", "four")
    weight = build.constant("weight", np.ones((4, 4), np.float32))
    made = four_bit_values(build, x, 0.5)
    graph.outputs.append(build.op("MatMul", [made, weight], "product"))
    before = len(graph.nodes)
    assert merge_quantizers(graph) == 0
    assert len(graph.nodes) == before and made.inputs[0].inputs[1].inputs[0].op == "DequantizeLinear"
