from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest

from graphs.errors import ExportError
from graphs.stage_specs import DYNAMIC_FOUR_BIT, ENGINE_DOMAIN
from graphs.targets import TARGETS, check_model, default_target, or_in_onnxruntime, target
from tests.backends.tiny_models import parse, save

NAMES = [
    "onnxruntime", "rtx", "rtx:sm80", "rtx:sm86", "rtx:sm89", "rtx:sm120", "rtx:sm121", "rtx:current", "trt10", "trt11",
    "jetson-orin",
]  # fmt: skip
HALF_FULL = ("float16", "float")
X4 = "(float[4] x) => (float[4] y)"


def test_names_are_exactly_those_documented() -> None:
    assert list(TARGETS) == NAMES
    assert all(target(name).name == name for name in NAMES)


def test_jetson_orin_is_tensorrt_10_3_for_capability_8_7_and_opset_20() -> None:
    orin = target("jetson-orin")
    assert (orin.backend, orin.compute_capability, orin.opset) == ("tensorrt", "8.7", 20)
    assert orin.accepts_version("10.3.0.26")
    assert not orin.accepts_version("10.4.0") and not orin.accepts_version("10.2.9")


@pytest.mark.parametrize(
    ("name", "version", "accepted"),
    [("trt10", "10.16.1", True), ("trt10", "11.0.0", False), ("trt11", "11.4.1", True), ("rtx", "1.7.1.116", True)],
)
def test_version_constraints(name: str, version: str, accepted: bool) -> None:
    assert target(name).accepts_version(version) is accepted


def test_an_unknown_target_suggests_the_nearest_and_lists_all() -> None:
    with pytest.raises(ExportError, match="no target 'rtx:sm98'") as caught:
        target("rtx:sm98")
    hint = caught.value.hint or ""
    assert "did you mean 'rtx:sm89'?" in hint
    assert all(name in hint for name in NAMES)


@pytest.mark.parametrize(("installed", "name"), [(True, "rtx"), (False, "onnxruntime")])
def test_the_default_follows_the_installed_package(monkeypatch: pytest.MonkeyPatch, installed: bool, name: str) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: object() if installed else None)
    chosen, reason = default_target()
    assert chosen.name == name
    assert "tensorrt_rtx" in reason and ("not" in reason) is not installed


def test_only_targets_built_on_the_device_need_a_gpu() -> None:
    assert {name for name in NAMES if target(name).needs_gpu_to_build} == {
        "rtx:current", "trt10", "trt11", "jetson-orin",
    }  # fmt: skip


S = "s = Constant<value=float{0.1}>() "
REFUSED = {
    "nonzero": ("(float[4] x) => (int64[1,n] y)", "r = Relu(x) y = NonZero(r)", "depends on data"),
    "compress": ("(float[4] x, bool[4] c) => (float[n] y)", "y = Compress<axis=0>(x, c)", "depends on data"),
    "if": (
        "(float[4] x, bool c) => (float[4] y)",
        "y = If(c)<then_branch = t () => (float[4] a) { a = Relu(x) }, "
        "else_branch = e () => (float[4] b) { b = Neg(x) }>",
        "static ops only",
    ),
    "random": (X4, "r = RandomNormalLike(x) y = Add(x, r)", "make the noise an input"),
    "dynamic quantisation": (X4, "q, s, z = DynamicQuantizeLinear(x) y = DequantizeLinear(q, s, z)", "calibrate"),
    "scatter with reduction": (
        "(float[4] x, float[2] u) => (float[4] y)",
        'i = Constant<value=int64[2]{0,1}>() y = ScatterElements<axis=0, reduction="add">(x, i, u)',
        "reduction 'add'",
    ),
    "large k": (
        "(float[4000] x) => (float[3841] y)",
        "k = Constant<value=int64[1]{3841}>() y, i = TopK(x, k)",
        "k is 3841",
    ),
    "uint8": (
        X4,
        S + "z = Constant<value=uint8{0}>() q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z)",
        "UINT8 is silently",
    ),
    "no zero point": (X4, S + "q = QuantizeLinear(x, s) y = DequantizeLinear(q, s)", "without a zero point"),
    "zero point": (
        X4,
        S + "z = Constant<value=int8{1}>() q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z)",
        "zero point is not 0",
    ),
    "det": ("(float[4,4] x) => (float y)", "y = Det(x)", "TensorRT-RTX has no such op"),
}
QKV = "({0}[1,2,8,16] q, {0}[1,2,8,16] k, {0}[1,2,8,16] v) => ({0}[1,2,8,16] y)"


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_rtx_refuses_and_onnxruntime_takes(case: str) -> None:
    signature, body, reason = REFUSED[case]
    model = parse(signature, body)
    with pytest.raises(ExportError, match=reason):
        check_model(model, target("rtx"))
    check_model(model, target("onnxruntime"))


@pytest.mark.parametrize(
    ("body", "signature"),
    [
        ("k = Constant<value=int64[1]{3840}>() y, i = TopK(x, k)", "(float[4000] x) => (float[3840] y)"),
        (S + "z = Constant<value=int8{0}>() q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z)", X4),
        (
            "i = Constant<value=int64[2]{0,1}>() y = ScatterElements(x, i, u)",
            "(float[4] x, float[2] u) => (float[4] y)",
        ),
    ],
    ids=["k at the limit", "int8 with zero point 0", "scatter without reduction"],
)
def test_allowed_uses_pass_on_every_target(body: str, signature: str) -> None:
    model = parse(signature, body)
    for each in TARGETS.values():
        check_model(model, each)


def test_attention_is_for_half_precision() -> None:
    half, full = (parse(QKV.format(kind), "r = Identity(q) y = Attention(r, k, v)", opset=23) for kind in HALF_FULL)
    check_model(half, target("rtx"))
    with pytest.raises(ExportError, match="Attention in FP32 does not build"):
        check_model(full, target("rtx"))


def test_attention_of_one_tensor_as_query_and_key_is_refused() -> None:
    model = parse(QKV.format("float16"), "y = Attention(q, q, v)", opset=23)
    with pytest.raises(ExportError, match="crashes the builder"):
        check_model(model, target("rtx"))


@pytest.mark.parametrize(
    ("domain", "reason"), [("dsr", "never lowered"), ("com.microsoft", "contrib op"), ("my.plugins", "my.plugins")]
)
@pytest.mark.parametrize("name", ["onnxruntime", "rtx", "jetson-orin"])
def test_no_target_takes_another_domain(domain: str, reason: str, name: str) -> None:
    model = parse(X4, "y = Relu(x)")
    model.graph.node[0].domain = domain
    with pytest.raises(ExportError, match=reason):
        check_model(model, target(name))


def test_the_error_names_every_node_its_op_and_module(tmp_path: Path) -> None:
    path = save(tmp_path, "(float[4] x) => (int64[1,n] y)", "a = NonZero(x) b = NonZero(x) y = Concat<axis=1>(a, b)")
    with pytest.raises(ExportError) as caught:
        check_model(path, target("rtx:sm89"))
    message = caught.value.message
    assert message.startswith("2 nodes cannot run on target 'rtx:sm89': NonZero: ")
    assert "blocks.0.attn/NonZero (module blocks.0.attn), blocks.1.attn/NonZero (module blocks.1.attn)" in message
    assert message.count("depends on data") == 1
    assert "--target onnxruntime" in (caught.value.hint or "")


def test_a_newer_opset_than_the_target_reads_is_refused() -> None:
    model = parse(X4, "y = Relu(x)", opset=23)
    check_model(model, target("rtx"))
    with pytest.raises(ExportError, match="opset 23, and target 'jetson-orin' reads up to 20") as caught:
        check_model(model, target("jetson-orin"))
    assert "opset 20" in (caught.value.hint or "")


def test_a_zero_point_in_external_data_is_read(tmp_path: Path) -> None:
    body = "q = QuantizeLinear<axis=1>(x, s, z) y = DequantizeLinear<axis=1>(q, s, z)"
    model = parse("(float[4,2] x) => (float[4,2] y)", body)
    model.graph.initializer.append(onnx.helper.make_tensor("s", onnx.TensorProto.FLOAT, [2], [0.1, 0.1]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0, 3], np.int8), "z"))
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    with pytest.raises(ExportError, match="zero point is not 0"):
        check_model(path, target("rtx"))


@pytest.mark.parametrize(("kind", "named"), [("FLOAT", True), ("INT4", True), ("FLOAT4E2M1", False)])
def test_no_hint_sends_codes_where_they_have_no_kernels(kind: str, named: bool) -> None:
    weight = onnx.TensorProto(name="w", dims=[2, 2], data_type=onnx.TensorProto.DataType.Value(kind))
    model = onnx.ModelProto(graph=onnx.GraphProto(initializer=[weight]))
    assert (or_in_onnxruntime(model) != "") is named
    model.graph.node.add(op_type=DYNAMIC_FOUR_BIT, domain=ENGINE_DOMAIN)
    assert or_in_onnxruntime(model) == ""
