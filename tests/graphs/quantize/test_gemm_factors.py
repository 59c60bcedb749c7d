"""Gemm's own factors: of its product (alpha) and of its bias (beta), for tokens and for conditions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from graphs.files import load_inferred_graph, save_graph
from graphs.quantize.formats import FP8, INT8, CodeFormat
from graphs.quantize.gemms import quantize_gemms
from graphs.quantize.quantizers import Activation, QuantizedGemm, turned
from graphs.weights.stored import stored_constants
from tests.graphs.optimizing import infer, parsed

TOKENS, WIDTH, OUT = 20, 32, 24
WEIGHT = np.random.default_rng(0).standard_normal((WIDTH, OUT)).astype(np.float32)
BIAS = np.linspace(-1, 1, OUT, dtype=np.float32)
SHIFT = np.linspace(0, 0.5, OUT, dtype=np.float32)
FACTORS = pytest.mark.parametrize("alpha", [1.0, 0.97, -1.0, -3.0])


def _planned(activation: Activation | None, form: CodeFormat = INT8) -> QuantizedGemm:
    steps = (np.abs(WEIGHT).max(axis=0) / form.largest).astype(np.float32)
    codes = form.codes(form.nearest(WEIGHT / steps))
    return QuantizedGemm(codes=codes, weight_steps=steps, activation=activation, bias_shift=SHIFT)


def _made(folder: Path, planned: QuantizedGemm, alpha: float, x: np.ndarray) -> tuple[np.ndarray, onnx.ModelProto]:
    body = f"out = Gemm<alpha = {alpha}, beta = 0.5>(x, w, b)"
    model = parsed(f"g (float[n, {WIDTH}] x) => (float[n, {OUT}] out) {{ {body} }}", {"w": WEIGHT, "b": BIAS})
    model.graph.node[0].name = "fc/Gemm"
    onnx.save(model, folder / "m.onnx")
    graph = load_inferred_graph(folder / "m.onnx")
    quantize_gemms(graph, {"fc": planned})
    made = onnx.load(save_graph(graph, folder / "q.onnx"))
    return infer(made, {"x": x}, optimized=False)[0], made


def _check(made: np.ndarray, model: onnx.ModelProto, alpha: float, x: np.ndarray, tolerance: float) -> None:
    """The shift is what codes lack of the product, on average: it has the factor, too."""
    wanted = alpha * (x @ WEIGHT + SHIFT) + 0.5 * BIAS
    np.testing.assert_allclose(made, wanted, atol=tolerance * np.abs(wanted).max())
    steps = [numpy_helper.to_array(each) for each in model.graph.initializer if each.name.endswith("weight_steps")]
    assert len(steps) == 1 and (steps[0] > 0).all()


@FACTORS
@pytest.mark.parametrize(("form", "tolerance"), [(INT8, 0.02), (FP8, 0.06)], ids=["int8", "fp8"])
def test_of_tokens(form: CodeFormat, tolerance: float, alpha: float, tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((TOKENS, WIDTH)).astype(np.float32)
    step = float(np.abs(x).max()) / form.largest
    made, model = _made(tmp_path, _planned(Activation(step=step, format=form), form), alpha, x)
    _check(made, model, alpha, x, tolerance)


@FACTORS
def test_of_a_condition(alpha: float, tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((3, WIDTH)).astype(np.float32)
    made, model = _made(tmp_path, _planned(None), alpha, x)
    _check(made, model, alpha, x, 0.01)


@pytest.mark.parametrize("form", [INT8, FP8], ids=["int8", "fp8"])
def test_codes_of_the_other_sign_are_exact_wherever_they_lie(form: CodeFormat, tmp_path: Path) -> None:
    codes = np.asarray(_planned(None, form).codes)
    model = parsed("g (float[1] x) => (float[1] out) { out = Identity(x) }", {})
    model.graph.initializer.append(numpy_helper.from_array(codes, "w"))
    model.graph.node.append(onnx.helper.make_node("Cast", ["w"], ["c"], "c/Cast", to=1))
    model.graph.output.append(onnx.helper.make_tensor_value_info("c", 1, [WIDTH, OUT]))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    (stored,) = stored_constants(load_inferred_graph(tmp_path / "m.onnx"))
    for made in (turned(codes), turned(stored._values).load()):  # type: ignore[union-attr]
        assert made.dtype == codes.dtype
        np.testing.assert_array_equal(made.astype(np.float32), -codes.astype(np.float32))
