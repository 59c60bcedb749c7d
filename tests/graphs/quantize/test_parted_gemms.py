"""A quantised GEMM whose channels are parted behind it, as gated MLPs do."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from graphs.artifacts import QuantizedModel
from graphs.files import load_inferred_graph, save_graph
from graphs.forms import FORMS, FormName
from graphs.mixed_precision.islands import PrecisionPolicy
from graphs.mixed_precision.typed import assign_precision
from graphs.quantize.formats import FLOATS
from graphs.quantize.gemms import quantize_gemms
from graphs.quantize.pairing import paired_quantizers
from graphs.quantize.parted_gemms import NARROWEST_PART, part_gemms
from graphs.quantize.quantizers import Activation, QuantizedGemm, held_step
from graphs.weights.stored import stored_constants

WIDTH, TOKENS = 32, 20
WIDE = NARROWEST_PART
GATED = "h = MatMul(x, w) k = Add(h, b) g, v = Split<axis = -1, num_outputs = 2>(k) out = Mul(g, v)"


def _model(path: Path, half: int, body: str = GATED, out: str = "") -> Path:
    given = f"float[N,{TOKENS},{half}] out{out}"
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 20]> g (float[N,{TOKENS},{WIDTH}] x) => ({given}) {{ {body} }}'
    )
    rng = np.random.default_rng(0)
    arrays = {"w": rng.standard_normal((WIDTH, 2 * half)), "b": rng.standard_normal(2 * half)}
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        numpy_helper.from_array(a.astype(np.float32), n) for n, a in arrays.items() if n in used
    )
    for node in model.graph.node:
        node.name = f"fc/{node.op_type}" if node.op_type == "MatMul" else f"m/{node.output[0]}/{node.op_type}"
    onnx.save(model, path)
    return path


def _planned(half: int, rows: str, *, shift: bool) -> QuantizedGemm:
    weight = np.random.default_rng(0).standard_normal((WIDTH, 2 * half)).astype(np.float32)
    steps = (np.abs(weight).max(axis=0) / 60).astype(np.float32)  # far from where 16 bits overflow
    step = 1 / 127 if rows == "dynamic" else 0.03
    return QuantizedGemm(
        codes=np.rint(weight / steps).astype(np.int8),
        weight_steps=steps,
        activation=Activation(step=step, rows=rows),  # type: ignore[arg-type]
        bias_shift=np.linspace(0, 1, 2 * half, dtype=np.float32) if shift else None,
    )


def _quantised(folder: Path, half: int, planned: QuantizedGemm, body: str = GATED, out: str = "") -> Path:
    graph = load_inferred_graph(_model(folder / "m.onnx", half, body, out))
    quantize_gemms(graph, {"fc": planned})
    path = save_graph(graph, folder / "whole.onnx")
    parted = load_inferred_graph(path)
    part_gemms(parted)
    return save_graph(parted, folder / "q.onnx")


def _session(path: Path, *, fused: str = "") -> onnxruntime.InferenceSession:
    options, levels = onnxruntime.SessionOptions(), onnxruntime.GraphOptimizationLevel
    options.log_severity_level, options.optimized_model_filepath = 3, fused
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if fused else levels.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


@pytest.mark.parametrize("rows", ["none", "dynamic"])
@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize(
    "body", [GATED, GATED.replace("k = Add(h, b)", "").replace("(k)", "(h)")], ids=["bias", "none"]
)
def test_the_parts_are_what_the_whole_was(rows: str, shift: bool, body: str, tmp_path: Path) -> None:
    planned = _planned(WIDE, rows, shift=shift)
    path = _quantised(tmp_path, WIDE, planned, body)
    x = np.random.default_rng(1).standard_normal((2, TOKENS, WIDTH)).astype(np.float32)
    factors = np.abs(x).max(axis=2, keepdims=True) if rows == "dynamic" else np.ones(1)
    assert planned.activation is not None
    step = held_step(planned.activation.step)
    whole = np.rint(x / factors / step) * step * factors @ (planned.codes * planned.weight_steps)
    model = onnx.load(tmp_path / "m.onnx")
    whole = whole + sum(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "b")
    whole = whole + (0 if planned.bias_shift is None else planned.bias_shift)
    made = _session(path).run(None, {"x": x})[0]
    np.testing.assert_allclose(made, whole[..., :WIDE] * whole[..., WIDE:], rtol=1e-3, atol=1e-2)
    assert "Split" not in _operators(path)
    assert list(paired_quantizers(onnx.load(path))) == []


def test_onnxruntime_makes_an_integer_product_of_every_part(tmp_path: Path) -> None:
    path = _quantised(tmp_path, WIDE, _planned(WIDE, "dynamic", shift=False))
    _session(path, fused=str(tmp_path / "fused.onnx"))
    assert _operators(tmp_path / "fused.onnx")["MatMulIntegerToFloat"] == 2


ACROSS = (
    "h = MatMul(x, w) k = Add(h, b) g, v = Split<axis = 1, num_outputs = 2>(k) c = Concat<axis = 1>(v, g) "
    "r, s = Split<axis = -1, num_outputs = 2>(c) out = Mul(r, s)"
)


@pytest.mark.parametrize(
    ("half", "body", "out"),
    [(WIDE // 2, GATED, ""), (WIDE, GATED, f", float[N,{TOKENS},{2 * WIDE}] k"), (WIDE, ACROSS, "")],
    ids=["narrow parts", "the whole is an output", "parts of tokens"],
)
def test_it_stays_whole(half: int, body: str, out: str, tmp_path: Path) -> None:
    path = _quantised(tmp_path, half, _planned(half, "dynamic", shift=False), body, out)
    assert _operators(path)["MatMul"] == 1
    assert _operators(path)["Split"] >= 1


def test_each_part_has_codes_of_its_own_and_the_first_those_of_the_whole(tmp_path: Path) -> None:
    """ONNX Runtime would merge equal ones, and then make no integer product."""
    path = _quantised(tmp_path, WIDE, _planned(WIDE, "none", shift=False))
    steps = [_steps(tmp_path / "whole.onnx"), _steps(path)]
    assert steps[0] == steps[1][:1]
    assert len(set(steps[1])) == 2 and steps[1][1] == pytest.approx(steps[1][0], rel=1e-6)


def _steps(path: Path) -> list[float]:
    model = onnx.load(path)
    values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return [values[node.input[1]].item() for node in model.graph.node if node.op_type == "QuantizeLinear"]


@pytest.mark.parametrize("form", FORMS)
def test_only_what_onnxruntime_runs_is_parted(form: FormName, tmp_path: Path) -> None:
    """An engine does what is behind the product for all parts at once."""
    _quantised(tmp_path, WIDE, _planned(WIDE, "dynamic", shift=True))
    source = QuantizedModel(path=tmp_path / "whole.onnx")
    policy = PrecisionPolicy(narrow_products=FORMS[form].narrow_products)
    typed, _ = assign_precision(source, tmp_path / "typed.onnx", "int8", policy)
    assert _operators(typed.path)["MatMul"] == (1 if form == "engine" else 2)


def test_a_weight_that_stays_in_its_file_is_parted_unread(tmp_path: Path) -> None:
    planned = _planned(WIDE, "dynamic", shift=False)
    _quantised(tmp_path, WIDE, planned)
    onnx.save(
        onnx.load(tmp_path / "whole.onnx"), tmp_path / "far.onnx", save_as_external_data=True, location="far.data"
    )
    graph = load_inferred_graph(tmp_path / "far.onnx")
    assert part_gemms(graph) == 1
    kept = [t for t in stored_constants(graph) if t.dtype == np.int8]
    assert [t._values.load().shape for t in kept] == [(WIDTH, WIDE)] * 2
    np.testing.assert_array_equal(np.concatenate([t._values.load() for t in kept], axis=1), planned.codes)


def test_a_weight_alone_in_codes_stays_whole(tmp_path: Path) -> None:
    planned = dataclasses.replace(_planned(WIDE, "none", shift=False), activation=Activation(step=1.0, format=FLOATS))
    path = _quantised(tmp_path, WIDE, planned)
    assert (_operators(path)["MatMul"], _operators(path)["Split"]) == (1, 1)
