"""What a rewrite makes computes in the type of the module it stands in."""

from __future__ import annotations

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
