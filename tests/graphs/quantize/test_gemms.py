"""INT8 in the graph: what the nodes compute, what the stage spec refuses, and which types surround them."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from graphs.artifacts import OptimizedModel
from graphs.errors import ExportError
from graphs.files import load_inferred_graph, save_graph
from graphs.mixed_precision.islands import PrecisionPolicy
from graphs.mixed_precision.typed import assign_precision
from graphs.quantize.formats import FP8, INT8, CodeFormat
from graphs.quantize.gemms import quantize_gemms
from graphs.quantize.pairing import paired_quantizers
from graphs.quantize.quantizers import Activation, QuantizedGemm, held_step
from graphs.weights.element_types import low_precision_fraction

TOKENS, WIDTH, OUT = 5, 8, 6
DYNAMIC = Activation(step=1 / 127, rows="dynamic")


def _model(path: Path, body: str = "h = MatMul(x, w) out = Add(h, b)") -> Path:
    """x [N, 5, 8] times w, plus b."""
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 20]> g (float[N,{TOKENS},{WIDTH}] x) => (float[N,{TOKENS},{OUT}] out) '
        f"{{ {body} }}"
    )
    rng = np.random.default_rng(0)
    arrays = {"w": rng.standard_normal((WIDTH, OUT)), "b": rng.standard_normal(OUT), "wt": np.zeros((OUT, WIDTH))}
    arrays["wt"] = arrays["w"].T.copy()
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        numpy_helper.from_array(a.astype(np.float32), n) for n, a in arrays.items() if n in used
    )
    for i, node in enumerate(model.graph.node):
        node.name = f"fc{i}/{node.op_type}"
    onnx.save(model, path)
    return path


def _planned(
    activation: Activation | None, *, shift: bool = False, transposed: bool = False, form: CodeFormat = INT8
) -> QuantizedGemm:
    weight = np.random.default_rng(0).standard_normal((WIDTH, OUT)).astype(np.float32)
    steps = (np.abs(weight).max(axis=0) / form.largest).astype(np.float32)
    codes = form.codes(form.nearest(weight / steps))
    return QuantizedGemm(
        codes=np.ascontiguousarray(codes.T) if transposed else codes,
        weight_steps=steps,
        activation=activation,
        bias_shift=np.arange(OUT, dtype=np.float32) if shift else None,
    )


def _quantised(folder: Path, planned: QuantizedGemm, body: str = "h = MatMul(x, w) out = Add(h, b)") -> Path:
    graph = load_inferred_graph(_model(folder / "m.onnx", body))
    assert quantize_gemms(graph, {"fc0": planned}) == ["fc0"]
    return save_graph(graph, folder / "q.onnx")


def _run(path: Path, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def _oracle(x: np.ndarray, planned: QuantizedGemm, rows: np.ndarray) -> np.ndarray:
    assert planned.activation is not None
    numbers = x / rows / held_step(planned.activation.step)
    if planned.activation.format == INT8:
        codes = np.clip(np.rint(numbers), -128, 127)
    else:
        codes = np.clip(numbers, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    bias = np.random.default_rng(0)
    bias.standard_normal((WIDTH, OUT))
    shift = 0 if planned.bias_shift is None else planned.bias_shift
    weight = np.asarray(planned.codes, np.float32) * planned.weight_steps
    product = codes * held_step(planned.activation.step) @ weight
    return np.asarray(product * rows + bias.standard_normal(OUT) + shift)


@pytest.mark.parametrize(
    "activation",
    [
        Activation(step=0.02),
        DYNAMIC,
        Activation(step=1 / 127, rows="static", row_factors=np.array([40.0, 3, 3, 3, 3])),
        Activation(step=0.002, format=FP8),  # what lies beyond 448 of these is cut off
        Activation(step=1 / 448, rows="dynamic", format=FP8),
        Activation(step=1 / 448, rows="static", row_factors=np.array([40.0, 3, 3, 3, 3]), format=FP8),
    ],
    ids=lambda activation: f"{activation.format.name}-{activation.rows}",
)
@pytest.mark.parametrize("shift", [False, True])
def test_the_nodes_compute_what_the_codes_say(activation: Activation, shift: bool, tmp_path: Path) -> None:
    planned = _planned(activation, shift=shift, form=activation.format)
    x = np.random.default_rng(1).uniform(-2, 2, (3, TOKENS, WIDTH)).astype(np.float32)
    x[:, 0] *= 15
    rows = {
        "none": np.ones(1),
        "dynamic": np.abs(x).max(axis=2, keepdims=True),
        "static": np.reshape([40.0, 3, 3, 3, 3], (1, TOKENS, 1)),
    }[activation.rows]
    made = _run(_quantised(tmp_path, planned), x)
    np.testing.assert_allclose(made, _oracle(x, planned, rows), rtol=1e-4, atol=1e-4)


def test_gemms_that_share_an_input_may_have_two_formats(tmp_path: Path) -> None:
    graph = load_inferred_graph(_model(tmp_path / "m.onnx", "h = MatMul(x, w) k = MatMul(x, w) out = Add(h, k)"))
    eight = _planned(Activation(step=1 / 448, rows="dynamic", format=FP8), form=FP8)
    quantize_gemms(graph, {"fc0": _planned(DYNAMIC), "fc1": eight})
    path = save_graph(graph, tmp_path / "q.onnx")
    assert list(paired_quantizers(onnx.load(path))) == []
    x = np.random.default_rng(1).uniform(-2, 2, (3, TOKENS, WIDTH)).astype(np.float32)
    rows = np.abs(x).max(axis=2, keepdims=True)
    wanted = [
        _oracle(x, each, rows) - _oracle(np.zeros_like(x), each, np.ones(1)) for each in (_planned(DYNAMIC), eight)
    ]
    np.testing.assert_allclose(_run(path, x), sum(wanted), rtol=1e-4, atol=1e-4)


def test_gemms_that_share_an_input_become_integer_products_all(tmp_path: Path) -> None:
    body = "h = MatMul(x, w) k = MatMul(x, w) out = Mul(h, k)"
    graph = load_inferred_graph(_model(tmp_path / "m.onnx", body))
    planned = _planned(DYNAMIC)
    quantize_gemms(graph, {"fc0": planned, "fc1": planned})
    path = save_graph(graph, tmp_path / "q.onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.optimized_model_filepath = 3, str(tmp_path / "fused.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    fused = [node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node]
    assert fused.count("MatMulIntegerToFloat") == 2
    assert fused.count("Abs") == 1  # the rows' magnitudes are shared
    assert list(paired_quantizers(onnx.load(path))) == []


def test_a_token_of_zeros_gives_the_bias(tmp_path: Path) -> None:
    made = _run(_quantised(tmp_path, _planned(DYNAMIC)), np.zeros((1, TOKENS, WIDTH), np.float32))
    assert np.isfinite(made).all()
    np.testing.assert_allclose(made, np.broadcast_to(made[0, 0], made.shape))


def test_an_outlier_token_costs_the_others_nothing(tmp_path: Path) -> None:
    path = _quantised(tmp_path, _planned(DYNAMIC))
    x = np.random.default_rng(1).standard_normal((1, TOKENS, WIDTH)).astype(np.float32)
    shouting = x.copy()
    shouting[:, 2] *= 1000
    np.testing.assert_array_equal(np.delete(_run(path, x), 2, 1), np.delete(_run(path, shouting), 2, 1))


def test_a_gemm_with_a_stored_bias_becomes_a_product_and_a_sum(tmp_path: Path) -> None:
    model = onnx.load(_model(tmp_path / "flat.onnx", "h = MatMul(x, w) out = Add(h, b)"))
    del model.graph.node[:]
    shape = numpy_helper.from_array(np.array([-1, WIDTH]), "flat")
    back = numpy_helper.from_array(np.array([-1, TOKENS, OUT]), "back")
    wt = numpy_helper.from_array(np.ascontiguousarray(numpy_helper.to_array(model.graph.initializer[0]).T), "wt")
    model.graph.initializer.extend([shape, back, wt])
    model.graph.node.extend(
        onnx.parser.parse_graph(
            f"g (float[N,{TOKENS},{WIDTH}] x) => (float[N,{TOKENS},{OUT}] out) "
            "{ f = Reshape(x, flat) h = Gemm<transB=1>(f, wt, b) out = Reshape(h, back) }"
        ).node
    )
    for node in model.graph.node:
        node.name = f"{'fc0' if node.op_type == 'Gemm' else node.output[0]}/{node.op_type}"
    onnx.save(model, tmp_path / "flat.onnx")
    graph = load_inferred_graph(tmp_path / "flat.onnx")
    quantize_gemms(graph, {"fc0": _planned(DYNAMIC)})
    save_graph(graph, tmp_path / "q.onnx")
    x = np.random.default_rng(1).standard_normal((2, TOKENS, WIDTH)).astype(np.float32)
    expected = _oracle(x, _planned(DYNAMIC), np.abs(x).max(axis=2, keepdims=True))
    np.testing.assert_allclose(_run(tmp_path / "q.onnx", x), expected, rtol=1e-4, atol=1e-4)
    assert "Gemm" not in {node.op_type for node in onnx.load(tmp_path / "q.onnx").graph.node}


def test_a_condition_has_twice_the_bits(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 20]> g (float[N,{WIDTH}] x) => (float[N,{OUT}] out) '
        "{ out = Gemm<transB=1>(x, wt, b) }"
    )
    rng = np.random.default_rng(0)
    weight, bias = rng.standard_normal((WIDTH, OUT)), rng.standard_normal(OUT)
    arrays = {"wt": np.ascontiguousarray(weight.T), "b": bias}
    model.graph.initializer.extend(numpy_helper.from_array(a.astype(np.float32), n) for n, a in arrays.items())
    model.graph.node[0].name = "fc0/Gemm"
    onnx.save(model, tmp_path / "m.onnx")
    graph, planned = load_inferred_graph(tmp_path / "m.onnx"), _planned(None, shift=True)
    quantize_gemms(graph, {"fc0": planned})
    made = save_graph(graph, tmp_path / "q.onnx")
    assert list(paired_quantizers(onnx.load(made))) == []
    x = rng.standard_normal((4, WIDTH)).astype(np.float32) * np.array([[1], [100], [1e-3], [0]], np.float32)
    exact = x @ (planned.codes * planned.weight_steps) + bias + planned.bias_shift
    error = np.abs(_run(made, x) - exact).max(axis=1)
    assert (error <= 3e-4 * np.abs(x).max(axis=1) + 1e-5).all()  # a hundredth of what 8 bits leave


def test_everything_else_becomes_fp16_and_the_weights_count_as_int8(tmp_path: Path) -> None:
    path = _quantised(tmp_path, _planned(DYNAMIC), "h = MatMul(x, w) k = Add(h, b) out = Tanh(k)")
    typed, report = assign_precision(OptimizedModel(path=path), tmp_path / "typed.onnx", "int8", PrecisionPolicy())
    model = onnx.shape_inference.infer_shapes(onnx.load(typed.path))
    types = {v.name: v.type.tensor_type.elem_type for v in [*model.graph.value_info, *model.graph.output]}
    assert TensorProto.FLOAT16 in types.values()
    scales = {n.input[1] for n in model.graph.node if n.op_type.endswith("quantizeLinear") or "uantize" in n.op_type}
    assert {t.data_type for t in model.graph.initializer if t.name in scales} == {TensorProto.FLOAT}
    assert low_precision_fraction(model, "int8") == 1.0 == report.half_fraction
    assert types["out"] == TensorProto.FLOAT


def _broken(model: onnx.ModelProto, kind: str) -> None:
    nodes = {node.op_type: node for node in model.graph.node}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    q, dq = nodes["QuantizeLinear"], nodes["DequantizeLinear"]
    if kind == "zero point":
        constants[q.input[2]].CopyFrom(numpy_helper.from_array(np.array(3, np.int8), q.input[2]))
    elif kind == "UINT8":
        constants[q.input[2]].CopyFrom(numpy_helper.from_array(np.array(0, np.uint8), q.input[2]))
    elif kind == "no zero point":
        del q.input[2]
    elif kind == "other scale":
        model.graph.initializer.append(numpy_helper.from_array(np.array(0.5, np.float32), "other"))
        next(n for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] == q.output[0]).input[1] = (
            "other"
        )
    elif kind == "no gemm":
        model.graph.node.append(onnx.helper.make_node("Relu", [dq.output[0]], ["r"], name="Relu"))
    else:
        weight = next(n for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in constants)
        constants[weight.input[1]].CopyFrom(numpy_helper.from_array(np.ones(3, np.float32), weight.input[1]))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("zero point", "no INT8 zero"),
        ("UINT8", "no INT8 zero"),
        ("no zero point", "no constant zero point"),
        ("other scale", "different scales"),
        ("no gemm", "which is no GEMM"),
        ("weight scale", "no scale for each of the weight's"),
    ],
)
def test_the_spec_names_what_is_wrong(kind: str, said: str, tmp_path: Path) -> None:
    model = onnx.load(_quantised(tmp_path, _planned(DYNAMIC)))
    assert list(paired_quantizers(model)) == []
    _broken(model, kind)
    assert any(said in problem for problem in paired_quantizers(model))


def test_the_typed_stage_holds_to_that_spec(tmp_path: Path) -> None:
    path = _quantised(tmp_path, _planned(DYNAMIC))
    model = onnx.load(path)
    _broken(model, "UINT8")
    onnx.save(model, path)
    with pytest.raises(ExportError, match="no INT8 zero"):
        assign_precision(OptimizedModel(path=path), tmp_path / "typed.onnx", "int8", PrecisionPolicy())
