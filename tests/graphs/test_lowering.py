"""The stage `optimize` as a whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from graphs.artifacts import LoweredModel
from graphs.lowering import optimize
from graphs.rewrites import OPTIMIZATIONS
from tests.graphs.optimizing import listing, parsed

BLOCK = """\
g (float[batch, 4, 8] x) => (float[batch, 4, 8] out) {
  ["b.norm1/Pow"] square = Pow(x, two)
  ["b.norm1/ReduceMean"] mean = ReduceMean<keepdims = 1>(square, axis)
  ["b.norm1/Add"] shifted = Add(mean, eps)
  ["b.norm1/Sqrt"] root = Sqrt(shifted)
  ["b.norm1/Reciprocal"] inverse = Reciprocal(root)
  ["b.norm1/Mul"] normal = Mul(x, inverse)
  ["b.norm1/Mul_1"] weighted = Mul(normal, weight)
  ["b.mlp/MatMul"] made = MatMul(weighted, w)
  ["b/Shape"] sizes = Shape(x)
  ["b/Reshape"] out = Reshape(made, sizes)
}
"""


@pytest.fixture
def model(rng: np.random.Generator) -> onnx.ModelProto:
    arrays = {"weight": rng.standard_normal(8).astype(np.float32), "eps": np.array(1e-6, np.float32)}
    arrays |= {"w": rng.standard_normal((8, 8)).astype(np.float32), "two": np.array(2, np.float32)}
    return parsed(BLOCK, arrays | {"axis": np.array([-1])})


def _run(path: Path, x: np.ndarray) -> np.ndarray:
    return np.asarray(onnxruntime.InferenceSession(str(path)).run(None, {"x": x})[0])


def test_every_rewrite_is_reported_in_order(model: onnx.ModelProto, tmp_path: Path) -> None:
    onnx.save(model, tmp_path / "m.onnx")
    _, reports = optimize(LoweredModel(path=tmp_path / "m.onnx"), tmp_path / "o.onnx")
    assert [report.name for report in reports] == ["fold_constants", *(rewrite.name for rewrite in OPTIMIZATIONS)]
    counts = {report.name: report.count for report in reports}
    assert counts["divide_by_root"] == counts["fold_reshape_shape"] == 1
    assert (reports[0].nodes_after, reports[-1].nodes_after) == (10, 8)


def test_a_second_pass_over_all_of_them_changes_nothing(model: onnx.ModelProto, tmp_path: Path) -> None:
    """One rewrite may make what another, in front of it, looks for."""
    onnx.save(model, tmp_path / "m.onnx")
    first, _ = optimize(LoweredModel(path=tmp_path / "m.onnx"), tmp_path / "o.onnx")
    again, reports = optimize(LoweredModel(path=first.path), tmp_path / "p.onnx")
    assert {report.name: report.count for report in reports if report.count} == {}
    assert listing(onnx.load(again.path)) == listing(onnx.load(first.path))


def test_stored_weights_stay_in_their_file(model: onnx.ModelProto, tmp_path: Path, rng: np.random.Generator) -> None:
    kept = {"save_as_external_data": True, "location": "m.onnx.data", "size_threshold": 100}
    onnx.save(onnx.ModelProto.FromString(model.SerializeToString()), tmp_path / "m.onnx", **kept)
    optimize(LoweredModel(path=tmp_path / "m.onnx"), tmp_path / "o.onnx")
    assert (tmp_path / "o.onnx.data").samefile(tmp_path / "m.onnx.data")
    x = rng.standard_normal((2, 4, 8)).astype(np.float32)
    np.testing.assert_allclose(_run(tmp_path / "o.onnx", x), _run(tmp_path / "m.onnx", x), rtol=0, atol=1e-5)
