"""What a rewrite makes computes in the type of the module it stands in."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from graphs.mixed_precision.islands import PrecisionPolicy, fp32_islands
from graphs.precisions import HALF


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("blocks.3.norm1/Mul", "norm statistics"),
        ("dsr/optimize/blocks.3.norm1/Mul.quotient", "norm statistics"),
        ("dsr/optimize/norm/Mul.quotient", "norm statistics"),
        ("dsr/optimize/final_layer.norm_out.linear/Add.sum", "module final_layer"),
        ("dsr/optimize/final_layer/Add.sum", "module final_layer"),
        ("dsr/lower/blocks.3/sum", "outlier detection"),
        ("dsr/optimize/final_layers/Add.sum", None),
        ("dsr/optimize/feat_rope/Add.sum", None),
    ],
)
def test_nodes_of_rewrites_keep_the_precision_of_their_module(name: str, reason: str | None) -> None:
    graph = gs.Graph(nodes=[gs.Node("Mul", name, inputs=[gs.Variable("x")], outputs=[gs.Variable("y")])])
    policy = PrecisionPolicy(fp32_modules=("final_layer",))
    assert fp32_islands(graph, policy, HALF).get(name) == reason


@pytest.mark.parametrize(("step", "wide"), [(0.5, False), (0.1, True), (40.004 * 2.0**-24, True), (2.0**-20, False)])
def test_a_step_that_the_type_rounds_keeps_its_dequantiser_wide(step: float, wide: bool) -> None:
    """However little: the quantiser divides by the step in FP32, and both are to have the same."""
    x, codes, values, out = (gs.Variable(name, np.float32) for name in ("x", "codes", "values", "out"))
    size = gs.Constant("step", np.array(step, np.float32))
    weight = gs.Constant("weight", np.ones((2, 2), np.float32))
    nodes = [
        gs.Node("QuantizeLinear", "dsr/quantize/a/codes", inputs=[x, size], outputs=[codes]),
        gs.Node("DequantizeLinear", "dsr/quantize/a/values", inputs=[codes, size], outputs=[values]),
        gs.Node("MatMul", "a/MatMul", inputs=[values, weight], outputs=[out]),
    ]
    islands = fp32_islands(gs.Graph(nodes=nodes), PrecisionPolicy(narrow_products=True), HALF)
    assert ("dsr/quantize/a/values" in islands, "a/MatMul" in islands) == (wide, wide)
