"""What a rewrite makes computes in the type of the module it stands in."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from graphs.builders import NodeBuilder
from graphs.mixed_precision.islands import PrecisionPolicy, fp32_islands
from graphs.precisions import HALF
from graphs.quantize.quantizers import Quantizer


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


@pytest.mark.parametrize(("size", "wide"), [(1.0, False), (1e4, True)])
def test_a_product_that_only_its_rows_make_small_is_wide(size: float, wide: bool) -> None:
    """Rows of 1e-6 times weights of 1e4: the product of even rows is beyond half, what comes of it is not."""
    graph = gs.Graph(opset=20)
    x, rows = gs.Variable("x", np.float32, ("batch", 4, 64)), gs.Variable("rows", np.float32, ("batch", 4, 1))
    out = gs.Variable("out", np.float32, ("batch", 4, 8))
    build = NodeBuilder(graph, "quantize", "a")
    steps = [build.constant("weight_steps", np.full(8, size / 127, np.float32)), build.ints("zero", 0)]
    weight = build.op("DequantizeLinear", [build.constant("weight", np.full((64, 8), 127, np.int8)), *steps], "weight")
    values = Quantizer(x, 1 / 127).values(build)
    product = gs.Variable("product", np.float32, ("batch", 4, 8))
    graph.nodes.append(gs.Node("MatMul", "a/MatMul", inputs=[values, weight], outputs=[product]))
    build.op("Mul", [product, rows], "rows_back").inputs[0].outputs = [out]
    graph.inputs, graph.outputs = [x, rows], [out]
    islands = fp32_islands(graph.toposort(), PrecisionPolicy(narrow_products=True), HALF)
    assert ("a/MatMul" in islands, "dsr/quantize/a/rows_back" in islands) == (wide, wide)
