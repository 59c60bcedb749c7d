"""LayerNorm spelt out -> one node: what matches, what doesn't and why, and that the numbers stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest

from graphs.artifacts import LoweredModel
from graphs.lowering import optimize
from graphs.rewrite import RewriteReport
from tests.graphs.spelt_norms import EPSILON, WIDTH, spelt_norm, spelt_norm_model, weights

FUSED = ("pow", "product", "twice")
GOLDEN = """\
MatMul blocks.0/MatMul_1
LayerNormalization dsr/optimize/{site}/layer_norm
MatMul blocks.0/MatMul_{last}
"""


def example() -> onnx.ModelProto:
    """A graph in which the rewrite matches; its axes are stored, as they are once constants are folded."""
    model = spelt_norm_model("pow")
    assert model.graph.node[0].output == ["axes"]
    del model.graph.node[0]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1]), "axes"))
    return model


def _run(model: onnx.ModelProto, a: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"a": a})[0])


def _optimize(path: Path) -> tuple[onnx.ModelProto, RewriteReport]:
    optimized, reports = optimize(LoweredModel(path=path), path.with_name("optimized.onnx"))
    return onnx.load(optimized.path), next(report for report in reports if report.name == "fuse_layer_norm")


@pytest.mark.parametrize("style", FUSED)
@pytest.mark.parametrize("axis", [-1, 2])
def test_a_spelt_layer_norm_becomes_one_node(tmp_path: Path, style: str, axis: int) -> None:
    model, report = _optimize(path := spelt_norm(tmp_path / "m.onnx", style, axis=axis))
    (site,) = report.sites
    last = len(onnx.load(path).graph.node) - 1
    text = "".join(f"{node.op_type} {node.name}\n" for node in model.graph.node)
    assert text == GOLDEN.format(site=site, last=last)
    attributes = {each.name: onnx.helper.get_attribute_value(each) for each in model.graph.node[1].attribute}
    assert attributes == {"axis": -1, "epsilon": pytest.approx(EPSILON)}


@pytest.mark.parametrize("style", FUSED)
def test_the_numbers_stay(tmp_path: Path, rng: np.random.Generator, style: str) -> None:
    path = spelt_norm(tmp_path / "m.onnx", style)
    a, w = (10 * rng.standard_normal((3, 4, WIDTH))).astype(np.float32), weights()
    x = (a @ w["w1"]).astype(np.float64)
    centred = x - x.mean(axis=-1, keepdims=True)
    normed = centred / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + EPSILON)
    expected = (normed * w["scale"] + w["bias"]) @ w["w2"]
    before = _run(onnx.load(path), a)
    after = _run(_optimize(path)[0], a)
    np.testing.assert_allclose(before, expected, atol=2e-6)
    np.testing.assert_allclose(after, expected, atol=2e-6)


@pytest.mark.parametrize(
    ("style", "axis", "reason"),
    [
        ("plain", -1, "not followed by a scale and a bias"),
        ("no bias", -1, "not followed by a scale and a bias"),
        ("biased root", -1, "its divisor is not sqrt"),
    ],
)
def test_a_near_miss_says_why(tmp_path: Path, style: str, axis: int, reason: str) -> None:
    model, report = _optimize(spelt_norm(tmp_path / "m.onnx", style, axis=axis))
    assert report.sites == () and [reason in miss.reason for miss in report.misses] == [True]
    assert "LayerNormalization" not in {node.op_type for node in model.graph.node}


@pytest.mark.parametrize(("style", "axis"), [("pow", 1), ("rms", -1)])
def test_other_norms_are_no_candidates(tmp_path: Path, style: str, axis: int) -> None:
    _, report = _optimize(spelt_norm(tmp_path / "m.onnx", style, axis=axis))
    assert (report.sites, report.misses) == ((), ())


def test_a_norm_by_a_reciprocal_is_one_too(tmp_path: Path) -> None:
    """`divide_by_root` comes first and makes it a quotient."""
    model, report = _optimize(spelt_norm(tmp_path / "m.onnx", "reciprocal"))
    assert len(report.sites) == 1
    assert "LayerNormalization" in {node.op_type for node in model.graph.node}
