"""What is looked for in a schedule, found in ONNX graphs of several forms."""

from __future__ import annotations

import onnx
import pytest

from dsr_export.engine_schedule.graph_sites import GraphSites
from tests.backends.tiny_models import parse
from tests.engine_schedule.tiny_plan import NODES, tiny_graph

SIGNATURE = "(float[4,8,8] q, float[4,8,8] k, float[4,8,8] v) => (float[4,8,8] y)"


@pytest.mark.parametrize(
    "body",
    [
        "m = MatMul(q, k) p = Softmax(m) y = MatMul(p, v)",
        "m = MatMul(q, k) s = Mul(m, q) a = Add(s, k) p = Softmax(a) h = Cast<to=10>(p) y = MatMul(h, v)",
        "m = MatMul(q, k) w = Where(c, m, n) p = Softmax(w) t = Transpose(p) y = MatMul(t, v)",
    ],
)
def test_attentions_are_found_with_masks_scales_and_casts(body: str) -> None:
    model = parse(SIGNATURE, body)
    softmax = next(node.name for node in model.graph.node if node.op_type == "Softmax")
    assert GraphSites(model).attentions() == [softmax]


@pytest.mark.parametrize(
    "body",
    [
        "p = Softmax(q) y = MatMul(p, v)",
        "m = MatMul(q, k) y = Softmax(m)",
        "m = MatMul(q, k) e = Exp(m) p = Softmax(e) y = MatMul(p, v)",
    ],
)
def test_other_softmaxes_are_none(body: str) -> None:
    assert GraphSites(parse(SIGNATURE, body)).attentions() == []


def test_a_product_with_a_weight_makes_no_attention() -> None:
    model = parse(SIGNATURE, "m = MatMul(q, k) p = Softmax(m) y = MatMul(p, w)")
    model.graph.initializer.append(onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, (8, 8), bytes(256), raw=True))
    assert GraphSites(model).attentions() == []
    assert GraphSites(model).weight_gemms() == [model.graph.node[2].name]


def test_the_operator_is_an_attention() -> None:
    model = parse(SIGNATURE, "y = Attention(q, k, v)", opset=23)
    assert GraphSites(model).attentions() == [model.graph.node[0].name]


def test_gemms_and_what_was_chosen_for_them() -> None:
    sites = GraphSites(tiny_graph())
    assert sites.weight_gemms() == [NODES[1], NODES[8]]
    assert sites.integer_gemms() == [NODES[8]]


def test_the_product_of_a_condition_computes_in_fp32_as_it_is_written() -> None:
    graph = tiny_graph()
    (gemm,) = (node for node in graph.graph.node if node.name == NODES[8])
    graph.graph.value_info.append(onnx.helper.make_tensor_value_info(gemm.output[0], onnx.TensorProto.FLOAT, None))
    assert gemm.name not in GraphSites(graph).fp32_nodes()  # a GEMM of the model, whose output should be half
    gemm.name = "dsr/quantize/blocks.0.adaLN/product"
    assert gemm.name in GraphSites(graph).fp32_nodes()
