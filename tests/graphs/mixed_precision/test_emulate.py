"""Every half tensor is rounded where it is made, to the right half, and no runtime optimises that away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphs.errors import ExportError
from graphs.mixed_precision.emulate import emulate_low
from graphs.mixed_precision.lone_rows import pad_lone_rows

FP32, FP16, BF16 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16
LEVELS = onnxruntime.GraphOptimizationLevel
TYPES = {FP16: np.dtype(np.float16), BF16: np.dtype(ml_dtypes.bfloat16)}
Array = np.ndarray[Any, Any]


def _model(nodes: Sequence[onnx.NodeProto], width: int = 0, **constants: Array) -> onnx.ModelProto:
    shape: list[str | int] = ["batch", width] if width else ["batch"]
    values = [helper.make_tensor_value_info(name, FP32, shape) for name in ("x", "out")]
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _low(op: str, *inputs: str, kind: int = FP16) -> list[onnx.NodeProto]:
    """`op` on x in a low type, and back."""
    return [
        helper.make_node("Cast", ["x"], ["low"], "in", to=kind),
        helper.make_node(op, ["low", *inputs], ["result"], "op"),
        helper.make_node("Cast", ["result"], ["out"], "back", to=FP32),
    ]


def _run(model: onnx.ModelProto, x: Array, level: Any = LEVELS.ORT_DISABLE_ALL) -> Array:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level, options.log_severity_level = level, 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["out"], {"x": x})[0])


def _neighbourhoods(kind: int) -> Array:
    """Every low number, the FP32 numbers beside it, the ties between two of them and beside those, and any bits."""
    low = np.arange(1 << 16, dtype=np.uint16).view(TYPES[kind]).astype(np.float32)
    with np.errstate(all="ignore"):
        ties = ((low.astype(np.float64) + np.roll(low, -1).astype(np.float64)) / 2).astype(np.float32)
        centres = np.concatenate([low, ties])
        beside = [np.nextafter(centres, np.float32(end)) for end in (-np.inf, np.inf)]
    bits = np.random.default_rng(0).integers(0, 1 << 32, 1 << 16, dtype=np.uint32).view(np.float32)
    named = np.array([65504, 65519.996, 65520, -65520, 3.4028235e38, 2.0**-24, 2.0**-25, 1e-45, -0.0], np.float32)
    return np.concatenate([centres, *beside, bits, named])


@pytest.mark.parametrize("level", [LEVELS.ORT_DISABLE_ALL, LEVELS.ORT_ENABLE_BASIC, LEVELS.ORT_ENABLE_ALL])
@pytest.mark.parametrize("kind", [FP16, BF16], ids=["fp16", "bf16"])
def test_every_number_is_rounded_as_its_type_does(kind: int, level: Any) -> None:
    """Nearest-even, subnormals, overflow to infinity, NaN and the sign of zero: bit for bit."""
    x = _neighbourhoods(kind)
    made = _run(emulate_low(_model(_low("Identity", kind=kind))), x, level)
    with np.errstate(all="ignore"):
        exact = x.astype(TYPES[kind]).astype(np.float32)
    nan = np.isnan(exact)
    assert np.isnan(made[nan]).all()
    np.testing.assert_array_equal(made[~nan].view(np.uint32), exact[~nan].view(np.uint32))


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Sqrt"])
def test_half_arithmetic_is_numpys(op: str, rng: np.random.Generator) -> None:
    """numpy rounds each half operation once, correctly; so do FP32 and then half."""
    x = rng.integers(0, 1 << 16, 4096, dtype=np.uint16).view(np.float16)
    other = np.asarray(rng.standard_normal(4096) * 10.0 ** rng.integers(-6, 4, 4096), np.float16)
    numpy_op = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide, "Sqrt": np.sqrt}[op]
    names = () if op == "Sqrt" else ("other",)
    with np.errstate(all="ignore"):
        exact = numpy_op(x, *([other] if names else [])).astype(np.float32)
    model = emulate_low(_model(_low(op, *names), other=other))
    np.testing.assert_array_equal(_run(model, x.astype(np.float32)), exact)


@pytest.mark.parametrize("level", [LEVELS.ORT_DISABLE_ALL, LEVELS.ORT_ENABLE_BASIC, LEVELS.ORT_ENABLE_ALL])
def test_what_half_cancels_is_cancelled(level: Any) -> None:
    """(sigmoid(x) + 4096) - 4096 is 0 in half, and not in ONNX Runtime's own half kernels."""
    nodes = [
        helper.make_node("Cast", ["x"], ["low"], "in", to=FP16),
        helper.make_node("Sigmoid", ["low"], ["s"], "sigmoid"),
        helper.make_node("Add", ["s", "big"], ["sum"], "add"),
        helper.make_node("Sub", ["sum", "big"], ["rest"], "sub"),
        helper.make_node("Cast", ["rest"], ["out"], "back", to=FP32),
    ]
    model = _model(nodes, big=np.array(4096, np.float16))
    x = np.linspace(-2, 2, 9, dtype=np.float32)
    assert _run(emulate_low(model), x, level).max() == 0
    assert _run(model, x, level).min() > 0.1  # where this fails, ONNX Runtime has learnt half arithmetic


def test_a_masked_score_becomes_infinite() -> None:
    x = np.array([-3.4028235e38, -65519.0, -65520.0, 0.0], np.float32)
    np.testing.assert_array_equal(_run(emulate_low(_model(_low("Identity"))), x), [-np.inf, -65504, -np.inf, 0])


def test_only_new_numbers_are_rounded_and_large_weights_stay_half() -> None:
    width = 256
    emulated = emulate_low(_model(_two_gemms(), width, w=np.eye(width, dtype=np.float16)))
    assert _rounded(emulated) == ["low/low", "y/low", "v/low"]
    assert [tensor.data_type for tensor in emulated.graph.initializer] == [FP16]
    assert [node.input[0] for node in emulated.graph.node].count("w") == 1  # widened once for both
    onnx.checker.check_model(emulated, full_check=True)


def test_small_weights_are_stored_wide(rng: np.random.Generator) -> None:
    """Thousands of casts that wait for nothing are what ONNX Runtime cannot order in time."""
    w = rng.standard_normal((8, 8)).astype(np.float16)
    emulated = emulate_low(_model(_two_gemms(), 8, w=w))
    assert _rounded(emulated) == ["low/low", "y/low", "v/low"]
    assert [(tensor.name, tensor.data_type) for tensor in emulated.graph.initializer] == [("w/fp32", FP32)]
    np.testing.assert_array_equal(numpy_helper.to_array(emulated.graph.initializer[0]), w)
    onnx.checker.check_model(emulated, full_check=True)


def test_a_small_weight_that_callers_may_replace_keeps_its_name() -> None:
    model = _model(_two_gemms(), 8, w=np.eye(8, dtype=np.float16))
    model.graph.input.append(helper.make_tensor_value_info("w", FP16, [8, 8]))
    emulated = emulate_low(model)
    assert [(tensor.name, tensor.data_type) for tensor in emulated.graph.initializer] == [("w", FP16)]
    onnx.checker.check_model(emulated, full_check=True)


def _rounded(emulated: onnx.ModelProto) -> list[str]:
    """What casts to half make."""
    return [node.output[0] for node in emulated.graph.node for a in node.attribute if a.name == "to" and a.i == FP16]


def _two_gemms() -> list[onnx.NodeProto]:
    return [
        helper.make_node("Cast", ["x"], ["low"], "in", to=FP16),
        helper.make_node("Transpose", ["low"], ["t"], "t", perm=[0, 1]),
        helper.make_node("MatMul", ["t", "w"], ["y"], "gemm"),
        helper.make_node("Relu", ["y"], ["z"], "relu"),
        helper.make_node("MatMul", ["z", "w"], ["v"], "again"),
        helper.make_node("Cast", ["v"], ["out"], "back", to=FP32),
    ]


def test_half_values_in_attributes_are_widened() -> None:
    value = numpy_helper.from_array(np.array([1.5], np.float16))
    nodes = [helper.make_node("Constant", [], ["c"], "c", value=value), *_low("Mul", "c")]
    assert _run(emulate_low(_model(nodes)), np.array([2, 1 + 2**-9], np.float32)).tolist() == [3.0, 1.5 + 3 * 2**-10]


def test_a_graph_without_low_tensors_is_left_alone() -> None:
    model = _model([helper.make_node("Neg", ["x"], ["out"], "neg")])
    assert emulate_low(model) is model


def test_a_tensor_of_unknown_type_is_refused() -> None:
    model = _model([*_low("Neg"), helper.make_node("Mystery", ["x"], ["what"], "mystery", domain="else.where")])
    model.opset_import.append(helper.make_opsetid("else.where", 1))
    with pytest.raises(ExportError, match="the type of 'what' .made by Mystery 'mystery'. cannot be inferred"):
        emulate_low(model)


@pytest.mark.parametrize("width", [8, 256])
def test_lone_rows_are_found_behind_weights_of_every_size(width: int, rng: np.random.Generator) -> None:
    """Small weights are widened where they lie and large ones by a cast: the shape of either is known."""
    weight = rng.standard_normal((width, width)).astype(np.float16)
    model = _model(_low("MatMul", "w"), width, w=weight)
    padded = pad_lone_rows(emulate_low(model))
    assert "Pad" in {node.op_type for node in padded.graph.node}


@pytest.mark.parametrize("op", ["MatMul", "Gemm"])
def test_a_lone_row_gets_the_kernel_of_many(op: str, rng: np.random.Generator) -> None:
    """Without the second row, batch 1 sums in another order, and a half may round the other way."""
    weight = rng.standard_normal((512, 512)).astype(np.float32)
    model = _model([helper.make_node(op, ["x", "w"], ["out"], "gemm")], 512, w=weight)
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    x = rng.standard_normal((3, 512)).astype(np.float32)
    plain, padded = _run(model, x), pad_lone_rows(model)
    assert [node.op_type for node in padded.graph.node] == ["Pad", op, "Slice"]
    np.testing.assert_array_equal(_run(padded, x[:1]), _run(padded, x)[:1])
    np.testing.assert_allclose(_run(padded, x), plain, atol=1e-4)
