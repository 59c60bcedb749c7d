"""Rows of an ONNX file that are rounding inside are no test: the file has no steady answer for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from dsr_export.config import BatchRange
from dsr_export.parity.golden.vectors import SPECIAL, Golden, make_golden
from dsr_export.subjects import onnx_graph as onnx_subject
from dsr_export.subjects.onnx_graph import load_onnx

CENTRED = """
<ir_version: 10, opset_import: ["": 20]> g (float[N,5,8] x) => (float[N,5,8] out) {
    product = MatMul(x, w)
    tokens = Add(product, b)
    centre = ReduceMean<keepdims = 1>(tokens, first)
    y = Sub(tokens, centre)
    square = Mul(y, y)
    mean = ReduceMean<keepdims = 1>(square, last)
    safe = Add(mean, eps)
    root = Sqrt(safe)
    out = Div(y, root)
}"""


def _golden(folder: Path, eps: float) -> Golden:
    rng, model = np.random.default_rng(0), onnx.parser.parse_model(CENTRED)
    floats = {"w": rng.standard_normal((8, 8)) / 3, "b": rng.standard_normal(8), "eps": np.array(eps)}
    arrays = {name: values.astype(np.float32) for name, values in floats.items()}
    arrays |= {"first": np.array([1]), "last": np.array([-1])}
    model.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in arrays.items())
    onnx.save(model, folder / "m.onnx")
    subject = load_onnx(folder / "m.onnx", name="m", provenance={})
    with subject.reference() as runner:
        return make_golden(subject, runner, batch=BatchRange(1, 2, 2), sampler=None, progress=lambda _, __: None)


def test_rows_that_are_zero_and_rounding_inside_are_left_out(tmp_path: Path) -> None:
    unsteady, steady = _golden(tmp_path, 1e-15), _golden(tmp_path, 1.0)
    assert (unsteady.left_out, steady.left_out) == (2, 0)  # zeros, and equal tokens
    assert not any(not row.any() for row in unsteady.further[SPECIAL].inputs["x"])
    assert any(not row.any() for row in steady.further[SPECIAL].inputs["x"])


def test_a_large_file_is_not_held_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_subject, "LARGE", 10)
    assert _golden(tmp_path, 1e-15).left_out == 1  # equal tokens, which part where the inputs are nudged
