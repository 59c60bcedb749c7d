"""What is beyond half in a graph whose tensors were named before it had codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from graphs.artifacts import QuantizedModel
from graphs.files import load_inferred_graph, save_graph
from graphs.forms import FORMS, FormName
from graphs.mixed_precision.emulate import emulate_low
from graphs.mixed_precision.islands import PrecisionPolicy
from graphs.mixed_precision.typed import assign_precision
from graphs.quantize.code_forms import wide_products
from graphs.quantize.gemms import quantize_gemms
from graphs.quantize.quantizers import Activation, QuantizedGemm
from tests.graphs.optimizing import infer, parsed

TOKENS, WIDTH = 4, 32
X = np.random.default_rng(1).uniform(20, 40, (2, TOKENS, WIDTH)).astype(np.float32)
WEIGHT = np.random.default_rng(0).uniform(50, 100, (WIDTH, WIDTH)).astype(np.float32)  # products of 70,000


def _quantised(folder: Path, *, coded: bool) -> Path:
    shape = f"float[batch, {TOKENS}, {WIDTH}]"
    body = '["fc/MatMul"] big = MatMul(x, w)\n  ["other/MatMul"] e = MatMul(x, v)\n  ["m/Mul"] out = Mul(big, small)'
    given = {"w": WEIGHT, "v": np.eye(WIDTH, dtype=np.float32), "small": np.array(1e-4, np.float32)}
    onnx.save(parsed(f"g ({shape} x) => ({shape} out, {shape} e) {{\n  {body}\n}}", given), folder / "m.onnx")
    steps = (WEIGHT.max(axis=0) / 127).astype(np.float32)
    planned = QuantizedGemm(
        codes=np.rint(WEIGHT / steps).astype(np.int8),
        weight_steps=steps,
        activation=Activation(step=1 / 127, rows="dynamic"),
        bias_shift=np.ones(WIDTH, np.float32),  # the GEMM has no bias to take it
        product_steps=steps * np.float32(WIDTH) if coded else None,
    )
    graph = load_inferred_graph(folder / "m.onnx")
    quantize_gemms(graph, {"fc": planned})
    return save_graph(graph, folder / "q.onnx")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("coded", [False, True], ids=["", "codes of the product"])
def test_what_lies_between_a_product_and_a_wide_tensor_is_wide(form: FormName, coded: bool, tmp_path: Path) -> None:
    source = QuantizedModel(path=_quantised(tmp_path, coded=coded))
    policy = PrecisionPolicy(wide_tensors={"big": "beyond half"}, narrow_products=FORMS[form].narrow_products)
    typed, _ = assign_precision(source, tmp_path / "typed.onnx", "int8", policy)
    wanted = X @ WEIGHT * 1e-4
    assert (X @ WEIGHT).max() > np.finfo(np.float16).max
    np.testing.assert_allclose(infer(emulate_low(onnx.load(typed.path)), {"x": X})[0], wanted, rtol=0.05)


def test_names_go_on_to_rows_and_shifts_alone(tmp_path: Path) -> None:
    graph = load_inferred_graph(_quantised(tmp_path, coded=False))
    found = wide_products(graph, {"big": "beyond half", "elsewhere": "too"})
    assert found == {
        "big": "beyond half",
        "elsewhere": "too",
        "big.biased": "beyond half",
        "big.rows_back": "beyond half",
    }
