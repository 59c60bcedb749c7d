"""The segmented runner: cut at every `dsr` node, and equal to PyTorch on a traced graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from dsr_export.backends.segmented import SegmentedRunner, segments
from dsr_export.errors import ExportError
from graphs.artifacts import TensorSpec
from graphs.dsr.domain import register_schemas
from tests.families.tiny_subjects import rae_dit

ABSOLUTE = {"rule": "absolute", "threshold": 2.0, "rounds": 1, "choice": "mask"}
X = TensorSpec(name="x", dtype="float32", shape=("batch", 3, 2))


def _site(name: str, source: str, out: str) -> onnx.NodeProto:
    return helper.make_node("ReplaceOutliers", [source, "rows"], [out], name=name, domain="dsr", **ABSOLUTE)


def _model(nodes: list[onnx.NodeProto], outputs: list[str]) -> onnx.ModelProto:
    register_schemas()
    value = {n: helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["batch", 3, 2]) for n in ["x", *outputs]}
    constants = [
        numpy_helper.from_array(np.ones((1, 2), np.float32), "rows"),
        numpy_helper.from_array(np.float32(2), "two"),
    ]
    graph = helper.make_graph(nodes, "g", [value["x"]], [value[n] for n in outputs], constants)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("dsr", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _chain() -> onnx.ModelProto:
    """x -> *2 -> site -> +x -> site -> out; the doubled tensor is an output too."""
    nodes = [
        helper.make_node("Mul", ["x", "two"], ["doubled"], name="double"),
        _site("a", "doubled", "masked"),
        helper.make_node("Add", ["masked", "x"], ["sum"], name="sum"),
        _site("b", "sum", "out"),
    ]
    return _model(nodes, ["out", "doubled"])


def test_a_graph_is_cut_at_each_site() -> None:
    first, second, last = segments(_chain().graph)
    assert [node.name for node in first.nodes] == ["double"]
    assert [node.name for node in first.sites] == ["a"]
    assert (first.reads, first.makes) == (["x"], ["doubled"])
    assert (second.reads, second.makes) == (["masked", "x"], ["sum"])
    assert (last.nodes, last.makes) == ([], [])


def test_sites_and_segments_run_in_order(tmp_path: Path) -> None:
    onnx.save(_chain(), tmp_path / "m.onnx")
    x = np.array([[[0.3, 0.4], [0.6, 0.8], [3.0, 4.0]]], np.float32)  # norms 0.5, 1, 5; doubled: 1, 2, 10
    with SegmentedRunner(tmp_path / "m.onnx", inputs=[X]) as runner:
        got = runner.infer({"x": x})
    np.testing.assert_array_equal(got["doubled"], x * 2)
    # Token 2 is masked at the first site (10 > 2) and again at the second (5 > 2); token 1 (2, then 3) only there.
    np.testing.assert_allclose(got["out"], [[[0.9, 1.2], [0, 0], [0, 0]]], rtol=1e-6)


def test_a_site_right_at_the_input_needs_no_segment(tmp_path: Path) -> None:
    onnx.save(_model([_site("a", "x", "out")], ["out"]), tmp_path / "m.onnx")
    x = np.array([[[3, 4], [0, 1], [1, 0]]], np.float32)
    with SegmentedRunner(tmp_path / "m.onnx", inputs=[X]) as runner:
        np.testing.assert_array_equal(runner.infer({"x": x})["out"], [[[0, 0], [0, 1], [1, 0]]])
    with pytest.raises(ExportError, match="closed"):
        runner.infer({"x": x})


@pytest.mark.slow
def test_a_traced_denoiser_equals_pytorch(tmp_path: Path) -> None:
    subject = rae_dit()
    traced = subject.trace(tmp_path / "traced.onnx")
    assert traced.sites["ReplaceOutliers"] == 2
    with SegmentedRunner(traced.path, inputs=subject.inputs) as runner, subject.reference() as reference:
        for batch in (1, 3):
            inputs = subject.example(batch, seed=batch)
            got, expected = runner.infer(inputs)["out"], reference.infer(inputs)["out"]
            np.testing.assert_allclose(got, expected, atol=2e-5 * max(1, np.abs(expected).max()))
