"""NaN goes through an INT8 GEMM as through any other, where a graph's masks can make it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from graphs.files import load_inferred_graph, save_graph
from graphs.quantize.gemms import quantize_gemms
from graphs.quantize.quantizers import Activation, QuantizedGemm

TOKENS, WIDTH = 4, 16
KINDS = {
    "tensor": Activation(step=0.02),
    "static": Activation(step=1 / 127, rows="static", row_factors=np.full(TOKENS, 3.0)),
    "dynamic": Activation(step=1 / 127, rows="dynamic"),
    "condition": None,
}


def _quantised(folder: Path, kind: str, mask: float) -> Path:
    """x, of which nothing is `mask`, times w."""
    tokens = "" if KINDS[kind] is None else f"{TOKENS},"
    sides = f"(float[N,{tokens}{WIDTH}] x) => (float[N,{tokens}{WIDTH}] out)"
    body = "{ y = Where(never, mask, x) out = MatMul(y, w) }"
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]> g {sides} {body}')
    model.graph.node[0].name, model.graph.node[1].name = "root/Where", "fc/MatMul"
    weights = {"w": np.eye(WIDTH, dtype=np.float32), "mask": np.float32(mask), "never": np.zeros((), bool)}
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(each), name) for name, each in weights.items())
    onnx.save(model, folder / "m.onnx")
    graph = load_inferred_graph(folder / "m.onnx")
    codes = np.eye(WIDTH, dtype=np.int8) * (127 if KINDS[kind] is not None else 63)
    steps = np.full(WIDTH, 1 / codes.max(), np.float32)
    quantize_gemms(graph, {"fc": QuantizedGemm(codes=codes, weight_steps=steps, activation=KINDS[kind])})
    return save_graph(graph, folder / "q.onnx")


@pytest.mark.parametrize("channel", [0, 15, slice(None)])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("broken_by", [np.nan, np.inf, -np.inf])
def test_a_row_with_nan_is_nan_and_no_other(tmp_path: Path, kind: str, broken_by: float, channel: int | slice) -> None:
    path = _quantised(tmp_path, kind, float(np.finfo(np.float32).min))
    x = np.random.default_rng(0).uniform(-1, 1, (3, TOKENS, WIDTH)).astype(np.float32)
    x = x[:, 0] if KINDS[kind] is None else x
    broken = x.copy()
    broken[1, ..., channel] = broken_by
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    made = np.asarray(session.run(None, {"x": broken})[0])
    assert np.isnan(made[1]).all()
    np.testing.assert_allclose(made[[0, 2]], x[[0, 2]], atol=0.02)


def test_a_graph_without_such_masks_pays_nothing(tmp_path: Path) -> None:
    model = onnx.load(_quantised(tmp_path, "dynamic", -1e4))
    assert "IsNaN" not in {node.op_type for node in model.graph.node}


def test_only_what_reads_a_quotient_pays(tmp_path: Path) -> None:
    sides = f"(float[N,{TOKENS},{WIDTH}] x) => (float[N,{TOKENS},{WIDTH}] out)"
    body = "{ y = MatMul(x, w) n = ReduceL2(y, last) z = Div(y, n) out = MatMul(z, w) }"
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]> g {sides} {body}')
    model.graph.node[0].name, model.graph.node[3].name = "first/MatMul", "second/MatMul"
    values = {"w": np.eye(WIDTH, dtype=np.float32), "last": np.array([-1])}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())
    onnx.save(model, tmp_path / "m.onnx")
    graph = load_inferred_graph(tmp_path / "m.onnx")
    codes, steps = np.eye(WIDTH, dtype=np.int8) * 127, np.full(WIDTH, 1 / 127, np.float32)
    planned = QuantizedGemm(codes=codes, weight_steps=steps, activation=KINDS["dynamic"])
    quantize_gemms(graph, {"first": planned, "second": planned})
    path = save_graph(graph, tmp_path / "q.onnx")
    assert [node.op_type for node in onnx.load(path).graph.node].count("IsNaN") == 1
    x = np.random.default_rng(0).uniform(-1, 1, (3, TOKENS, WIDTH)).astype(np.float32)
    x[1, 2] = 0
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    with np.errstate(invalid="ignore"):
        expected = x / np.linalg.norm(x, axis=-1, keepdims=True)
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, atol=0.03)
