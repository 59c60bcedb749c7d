"""ONNX files that are quantised already, whatever wrote them: refused at once, with the reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from graphs.errors import ExportError
from graphs.foreign.brought_in import read_foreign
from graphs.quantize.pairing import paired_quantizers
from tests.conftest import Cli

S, Z = "s = Constant<value=float{0.1}>() ", "z = Constant<value=int8{0}>() "
QUANTISED = {
    "Q and DQ": S + Z + "q = QuantizeLinear(x, s, z) out = DequantizeLinear(q, s, z)",
    "an int32 bias": S + "d = DequantizeLinear(bias, s) out = Add(x, d)",
    "a bias per channel": "d = DequantizeLinear<axis=0>(bias, scales) out = Add(x, d)",
    "weights alone": S + "d = DequantizeLinear(weight, s) out = MatMul(x, d)",
    "operators": S + Z + "q = QuantizeLinear(x, s, z) m = QLinearMatMul(q, s, z, q, s, z, s, z) out = Cast<to=1>(m)",
    "dynamic": "q, s, z = DynamicQuantizeLinear(x) m = MatMulInteger(q, q) out = Cast<to=1>(m)",
    "blocks of four bits": "out = com.microsoft.MatMulNBits<K=4, N=4>(x, x, x)",
    "contrib op": "out = com.microsoft.QGemm(x, x, x)",
    "ModelOpt": "out = trt.TRT_FP8QuantizeLinear(x)",
}
CONSTANTS = {
    "bias": np.arange(4, dtype=np.int32),
    "scales": np.ones(4, np.float32),
    "weight": np.ones((4, 4), np.int8),
}


def _model(body: str) -> onnx.ModelProto:
    imports = '"": 17, "com.microsoft": 1, "trt": 1'
    text = f"<ir_version: 8, opset_import: [{imports}]> g (float[N,4] x) => (float[N,4] out) {{ {body} }}"
    model = onnx.parser.parse_model(text)
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(numpy_helper.from_array(a, k) for k, a in CONSTANTS.items() if k in used)
    return model


def _saved(folder: Path, body: str) -> Path:
    onnx.save(_model(body), folder / "q.onnx")
    return folder / "q.onnx"


@pytest.mark.parametrize("case", QUANTISED)
def test_what_is_quantised_already_is_refused_with_the_reason(tmp_path: Path, case: str) -> None:
    with pytest.raises(ExportError, match=r"quantised already: it holds \w+ \(node") as refused:
        read_foreign(_saved(tmp_path, QUANTISED[case]))
    assert "build from the float model" in str(refused.value.hint)


@pytest.mark.parametrize("op", ["com.microsoft.QuickGelu", "com.microsoft.FusedMatMul"])
def test_other_contrib_ops_are_not_called_quantised(tmp_path: Path, op: str) -> None:
    with pytest.raises(ExportError, match="domain 'com.microsoft'"):
        read_foreign(_saved(tmp_path, f"out = {op}(x)"))


def test_integers_that_are_scaled_by_plain_ops_are_taken(tmp_path: Path) -> None:
    body = S + "f = Cast<to=1>(weight) d = Mul(f, s) out = MatMul(x, d)"
    assert len(read_foreign(_saved(tmp_path, body)).graph.node) == 4


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_build_ends_with_the_reason(precision: str, cli: Cli, tmp_path: Path) -> None:
    path = _saved(tmp_path, QUANTISED["an int32 bias"])
    done = cli("build", path, "--precision", precision, "--target", "onnxruntime", "--out", tmp_path / "b.dsr")
    assert done.code == 1 and not (tmp_path / "b.dsr").exists()
    assert "the model is quantised already: it holds DequantizeLinear (node 'that makes d')" in " ".join(
        done.err.split()
    )


@pytest.mark.parametrize("case", ["an int32 bias", "weights alone"])
def test_a_constant_without_the_axis_is_a_problem_and_no_crash(case: str) -> None:
    problems = list(paired_quantizers(_model(QUANTISED[case])))
    assert any("has no axis" in problem or "has no scale" in problem for problem in problems)
