"""RMSNorm in the form that ONNX Runtime fuses, against its formula."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from graphs.rewrites.divide_by_root import DivideByRoot
from tests.graphs.optimizing import fused_operators, infer, listing, parsed, rewritten

DIM, TOKENS, EPS = 8, 5, 1e-6
NORM = """\
g (float[batch, 5, 8] x) => (float[batch, 5, 8] out) {
  ["b.norm1/Pow"] square = Pow(x, two)
  ["b.norm1/ReduceMean"] mean = ReduceMean<keepdims = 1>(square, axis)
  ["b.norm1/Add"] shifted = Add(mean, eps)
  ["b.norm1/Sqrt"] root = Sqrt(shifted)
  ["b.norm1/Reciprocal"] inverse = Reciprocal(root)
  ["b.norm1/Mul"] normal = Mul(x, inverse)
  ["b.norm1/Mul_1"] out = Mul(normal, weight)
}
"""
GOLDEN = """\
b.norm1/Pow: square = Pow(x, two)
b.norm1/ReduceMean: mean = ReduceMean(square, axis)
b.norm1/Add: shifted = Add(mean, eps)
b.norm1/Sqrt: root = Sqrt(shifted)
dsr/optimize/b.norm1/Mul.quotient: dsr/optimize/b.norm1/Mul.quotient = Div(x, root)
b.norm1/Mul_1: out = Mul(dsr/optimize/b.norm1/Mul.quotient, weight)
"""


def example(old: str = "", new: str = "") -> onnx.ModelProto:
    """A graph in which the rewrite matches; with the changes, one in which it may not."""
    arrays = {
        "two": np.array(2, np.float32),
        "three": np.array(3, np.float32),
        "axis": np.array([-1]),
        "tokens": np.array([1]),
        "eps": np.array(EPS, np.float32),
        "weight": np.linspace(-1, 2, DIM, dtype=np.float32),
        "column": np.linspace(-1, 2, TOKENS, dtype=np.float32)[:, None],
    }
    return parsed(NORM.replace(old, new), arrays)


@pytest.mark.parametrize(
    ("old", "new"), [("", ""), ("Mul(x, inverse)", "Mul(inverse, x)"), ("(mean, eps)", "(eps, mean)")]
)
def test_the_norm_is_the_same(old: str, new: str, rng: np.random.Generator) -> None:
    found = rewritten(example(old, new), DivideByRoot())
    assert found.report.count == 1
    x = (100 * rng.standard_normal((3, TOKENS, DIM))).astype(np.float32)
    weight = next(onnx.numpy_helper.to_array(t) for t in found.before.graph.initializer if t.name == "weight")
    expected = x / np.sqrt(np.square(x.astype(np.float64)).mean(-1, keepdims=True) + EPS) * weight
    for model in (found.before, found.after):
        np.testing.assert_allclose(infer(model, {"x": x})[0], expected, rtol=2e-6, atol=1e-6)


def test_golden_text() -> None:
    assert listing(rewritten(example(), DivideByRoot()).after) == GOLDEN


def test_onnxruntime_fuses_the_new_form_alone(tmp_path: Path) -> None:
    found = rewritten(example(), DivideByRoot())
    assert fused_operators(found.after, str(tmp_path / "after.onnx")) == ["SimplifiedLayerNormalization"]
    assert "SimplifiedLayerNormalization" not in fused_operators(found.before, str(tmp_path / "before.onnx"))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("Pow(x, two)", "Pow(x, three)", "no mean of its squares"),
        ("(square, axis)", "(square, tokens)", "no mean of its squares"),
        ("Sqrt(shifted)", "Sqrt(square)", "no mean of its squares"),
        ("(normal, weight)", "(normal, column)", "no Mul by a constant weight"),
        ("Mul(normal, weight)", "Add(normal, weight)", "no Mul by a constant weight"),
    ],
)
def test_other_forms_are_left_alone_and_the_report_says_why(old: str, new: str, reason: str) -> None:
    found = rewritten(example(old, new), DivideByRoot())
    assert found.report.count == 0
    assert [reason in miss.reason for miss in found.report.misses] == [True]
    assert "Div" not in {node.op_type for node in found.after.graph.node}
