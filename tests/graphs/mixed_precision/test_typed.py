"""Precision written into the graph: types, islands, casts, and what may not be silently lost."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphs.artifacts import LoweredModel, OptimizedModel
from graphs.lowering import optimize
from graphs.mixed_precision.emulate import emulate_low
from graphs.mixed_precision.islands import PrecisionPolicy
from graphs.mixed_precision.typed import TypingReport, assign_precision
from tests.graphs.spelt_norms import SPELT, spelt_norm
from tests.graphs.spelt_norms import WIDTH as SPELT_WIDTH

WIDTH = 32


def _model(folder: Path, scale: float = 0.2) -> OptimizedModel:
    """x -> GEMM -> RMS norm -> GEMM -> out, named as tracing names nodes."""
    rng = np.random.default_rng(0)
    weights = {f"w{i}": (rng.standard_normal((WIDTH, WIDTH)) * scale).astype(np.float32) for i in (1, 2)}
    constants = {"two": np.float32(2), "eps": np.float32(1e-6), "last": np.array([-1])}
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"], name="fc1/MatMul"),
        helper.make_node("Pow", ["h", "two"], ["square"], name="norm/Pow"),
        helper.make_node("ReduceMean", ["square", "last"], ["mean"], name="norm/ReduceMean"),
        helper.make_node("Add", ["mean", "eps"], ["safe"], name="norm/Add"),
        helper.make_node("Sqrt", ["safe"], ["root"], name="norm/Sqrt"),
        helper.make_node("Div", ["h", "root"], ["normed"], name="norm/Div"),
        helper.make_node("MatMul", ["normed", "w2"], ["out"], name="fc2/MatMul"),
    ]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", WIDTH]) for n in ("x", "out")]
    initializers = [numpy_helper.from_array(np.asarray(v), k) for k, v in {**weights, **constants}.items()]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], initializers)
    path = folder / "optimized.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return OptimizedModel(path=path)


def _typed(folder: Path, precision: str, **policy: object) -> tuple[onnx.ModelProto, TypingReport]:
    typed, report = assign_precision(_model(folder), folder / "typed.onnx", precision, PrecisionPolicy(**policy))  # type: ignore[arg-type]
    model = onnx.load(typed.path)
    onnx.checker.check_model(model, full_check=True)
    return model, report


def _run(model: bytes, x: np.ndarray, *, plain: bool = False) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    if plain:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


@pytest.mark.parametrize(("precision", "low"), [("fp16", TensorProto.FLOAT16), ("bf16", TensorProto.BFLOAT16)])
def test_gemm_weights_are_low_and_norms_stay_fp32(precision: str, low: int, tmp_path: Path) -> None:
    model, report = _typed(tmp_path, precision)
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert [kind for name, kind in types.items() if name.startswith("w")] == [low, low]
    assert report.half_fraction == 1.0
    assert set(report.islands) == {f"norm/{op}" for op in ("Pow", "ReduceMean", "Add", "Sqrt", "Div")}
    assert {v.type.tensor_type.elem_type for v in [*model.graph.input, *model.graph.output]} == {TensorProto.FLOAT}


def test_fp32_changes_nothing(tmp_path: Path) -> None:
    model, report = _typed(tmp_path, "fp32")
    assert [node.op_type for node in model.graph.node].count("Cast") == report.casts == 0
    assert {t.data_type for t in model.graph.initializer if t.name.startswith("w")} == {TensorProto.FLOAT}


def test_a_wide_tensor_keeps_its_maker_and_readers_fp32(tmp_path: Path) -> None:
    model, report = _typed(tmp_path, "fp16", wide_tensors={"h": "|x| reaches 7e+04"})
    assert report.islands["fc1/MatMul"] == "range of h: |x| reaches 7e+04"
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert types["w1"] == TensorProto.FLOAT
    assert report.half_fraction == pytest.approx(1 / 3)  # half the weights, at two bytes instead of four


def test_a_module_kept_whole_keeps_its_weights(tmp_path: Path) -> None:
    _, report = _typed(tmp_path, "fp16", fp32_modules=("fc2",))
    assert report.islands["fc2/MatMul"] == "module fc2"


def test_fp16_numbers_stay_near_fp32(tmp_path: Path, rng: np.random.Generator) -> None:
    x = rng.standard_normal((4, WIDTH)).astype(np.float32)
    exact = _run(_typed(tmp_path, "fp32")[0].SerializeToString(), x)
    half = _run(_typed(tmp_path, "fp16")[0].SerializeToString(), x)
    assert 0 < np.abs(half - exact).max() < 5e-3


def test_emulated_bf16_rounds_as_bf16_does(tmp_path: Path, rng: np.random.Generator) -> None:
    """Errors must lie at BF16's size: far above FP16's, far below garbage."""
    x = rng.standard_normal((4, WIDTH)).astype(np.float32)
    exact = _run(_typed(tmp_path, "fp32")[0].SerializeToString(), x)
    emulated = _run(emulate_low(_typed(tmp_path, "bf16")[0]).SerializeToString(), x, plain=True)
    error = np.abs(emulated - exact).max() / np.abs(exact).max()
    assert 2**-10 < error < 2**-5


@pytest.mark.parametrize(("scale", "reason"), [(1e5, r"constant 3\.\d+e\+05"), (1e-6, r"constant 3\.\d+e-06")])
def test_weights_that_no_half_holds_stay_fp32(scale: float, reason: str, tmp_path: Path) -> None:
    model = _model(tmp_path, scale=scale)
    typed, report = assign_precision(model, tmp_path / "typed.onnx", "fp16", PrecisionPolicy())
    assert re.match(reason, report.islands["fc1/MatMul"])
    types = {tensor.name: tensor.data_type for tensor in onnx.load(typed.path).graph.initializer}
    assert types["w1"] == types["w2"] == TensorProto.FLOAT


def test_an_input_scaled_on_its_way_to_an_fp32_module_is_not_rounded(tmp_path: Path) -> None:
    """As Flux does with its timestep: rounded to FP16 first, 0.7003 would become 0.7002 and the angle 0.1 wrong."""
    nodes = [
        helper.make_node("Shape", ["t"], ["size"], name="root/Shape"),
        helper.make_node("Mul", ["t", "thousand"], ["scaled"], name="root/Mul"),
        helper.make_node("Sin", ["scaled"], ["out"], name="embed/Sin"),
    ]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch"]) for n in ("t", "out")]
    values.append(helper.make_tensor_value_info("size", TensorProto.INT64, [1]))
    thousand = numpy_helper.from_array(np.asarray(1000, np.float32), "thousand")
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [thousand])
    path = tmp_path / "optimized.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    typed, report = assign_precision(OptimizedModel(path=path), tmp_path / "typed.onnx", "fp16", PrecisionPolicy())
    assert report.casts == 0 and "root/Mul" in report.islands
    t = np.array([0.7003], np.float32)
    session = onnxruntime.InferenceSession(str(typed.path), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(["out"], {"t": t})[0], np.sin(t * 1000), atol=1e-4)


@pytest.mark.parametrize("style", SPELT)
def test_a_spelt_norm_computes_in_fp32(tmp_path: Path, rng: np.random.Generator, style: str) -> None:
    """Whatever its module is called, and although ONNX Runtime fuses norms itself, regardless of their types."""
    path = spelt_norm(tmp_path / "m.onnx", style)
    source = optimize(LoweredModel(path=path), tmp_path / "optimized.onnx")[0]
    typed, report = assign_precision(source, tmp_path / "typed.onnx", "fp16", PrecisionPolicy())
    model = onnx.load(typed.path)
    assert report.half_fraction == 1.0
    assert set(report.islands) == {node.name for node in model.graph.node if node.op_type not in ("MatMul", "Cast")}
    a = (10 * rng.standard_normal((3, 4, SPELT_WIDTH))).astype(np.float32)
    exact = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    half = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected, found = (each.run(None, {"a": a})[0] for each in (exact, half))
    assert 0 < np.abs(found - expected).max() < 5e-3
