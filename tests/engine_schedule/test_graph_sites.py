"""What is looked for in a schedule, found in ONNX graphs of several forms."""

from __future__ import annotations

import onnx
import onnx.parser
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
    assert sites.chosen() == {NODES[8]: "int8"}


ELEMENT = onnx.TensorProto


@pytest.mark.parametrize(
    ("activation", "weight", "chosen"),
    [
        (ELEMENT.FLOAT8E4M3FN, ELEMENT.FLOAT8E4M3FN, "float8e4m3"),
        (ELEMENT.INT8, ELEMENT.INT8, "int8"),
        (ELEMENT.UINT8, ELEMENT.INT8, "uint8 x int8"),
        (ELEMENT.FLOAT4E2M1, ELEMENT.FLOAT4E2M1, "float4e2m1"),
        (None, ELEMENT.INT4, "float16 x int4"),
        (None, ELEMENT.FLOAT4E2M1, "float16 x float4e2m1"),
        (None, None, None),
    ],
)
def test_what_is_chosen_is_the_type_of_the_codes(
    activation: int | None, weight: int | None, chosen: str | None
) -> None:
    """Casts and movers may stand between; a weight that is dequantised leaves floats as they are."""
    assert GraphSites(_gemm(activation, weight)).chosen() == ({} if chosen is None else {"g": chosen})


def test_a_quantiser_without_a_zero_point_makes_what_it_says() -> None:
    for said, chosen in (({}, "uint8 x int8"), ({"output_dtype": ELEMENT.FLOAT8E4M3FN}, "float8e4m3 x int8")):
        model = _gemm(ELEMENT.INT8, ELEMENT.INT8)
        (quantize,) = (node for node in model.graph.node if node.op_type == "QuantizeLinear")
        del quantize.input[2]
        quantize.attribute.extend(onnx.helper.make_attribute(*each) for each in said.items())
        assert GraphSites(model).chosen() == {"g": chosen}


def test_an_operand_of_no_known_type_is_not_guessed() -> None:
    model = _gemm(None, ELEMENT.INT4)
    assert GraphSites(model).chosen() == {"g": "float16 x int4"}  # as its cast says
    model.graph.node[0].CopyFrom(onnx.helper.make_node("Relu", ["x"], ["h"]))
    assert GraphSites(model).chosen() == {}


def _gemm(activation: int | None, weight: int | None) -> onnx.ModelProto:
    """x [4,8] FP16 by w [8,8]; codes have their quantisers, and None has none."""
    zeros = {"za": activation, "zw": weight, "w": weight or ELEMENT.FLOAT16, "s": ELEMENT.FLOAT16}
    read, wide = ("t", "q = QuantizeLinear(h, s, za) d = DequantizeLinear(q, s, za) t = Cast<to=10>(d)")
    kept, fixed = ("u", "dw = DequantizeLinear(w, s, zw) u = Transpose(dw)")
    first, a = (read, wide) if activation else ("h", "")
    second, b = (kept, fixed) if weight else ("w", "")
    body = f"h = Cast<to=10>(x) {a} {b} y = MatMul({first}, {second})"
    model = onnx.parser.parse_model(
        f'<ir_version: 11, opset_import: ["" : 23]> g (float[4,8] x) => (float16[4,8] y) {{ {body} }}'
    )
    model.graph.node[-1].name = "g"
    for name, kind in zeros.items():
        if kind is not None:
            dims = (8, 8) if name == "w" else ()
            tensor = onnx.TensorProto(name=name, data_type=kind, dims=dims)
            model.graph.initializer.append(tensor)
    return model


def test_the_product_of_a_condition_computes_in_fp32_as_it_is_written() -> None:
    graph = tiny_graph()
    (gemm,) = (node for node in graph.graph.node if node.name == NODES[8])
    graph.graph.value_info.append(onnx.helper.make_tensor_value_info(gemm.output[0], onnx.TensorProto.FLOAT, None))
    assert gemm.name not in GraphSites(graph).fp32_nodes()  # a GEMM of the model, whose output should be half
    gemm.name = "dsr/quantize/blocks.0.adaLN/product"
    assert gemm.name in GraphSites(graph).fp32_nodes()
