"""Tensors that a norm makes, found whatever modulates them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from graphs.files import load_inferred_graph
from graphs.structure.norm_outputs import norm_outputs
from graphs.weights.gemms import weight_gemms
from tests.graphs.spelt_norms import SPELT, spelt_norm

NORM = "y = LayerNormalization(x, w)"


@pytest.mark.parametrize("style", [style for style in SPELT if style != "twice"])  # that one becomes a node beforehand
def test_norms_in_primitives(style: str, tmp_path: Path) -> None:
    graph = load_inferred_graph(spelt_norm(tmp_path / "m.onnx", style))
    assert norm_outputs(graph, [gemm.activation for gemm in weight_gemms(graph)]) == {"y"}


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (f"{NORM} z = Identity(y)", True),
        (f"{NORM} s = Mul(y, row) z = Add(s, row)", True),
        (f"{NORM} s = Add(row, y) z = Mul(s, w)", True),
        ("z = Mul(x, row)", False),
        (f"{NORM} z = Tanh(y)", False),
        (f"{NORM} z = Add(x, y)", False),
        (f"{NORM} z = Mul(y, y)", False),
        (f"{NORM} z = Transpose<perm = [0, 2, 1]>(y)", False),
    ],
)
def test_modulated_norms_and_what_only_looks_like_one(body: str, found: bool, tmp_path: Path) -> None:
    inputs = "float[N,8,8] x, float[N,1,8] row"
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 20]> g ({inputs}) => (float[N,8,8] z) {{ {body} }}'
    )
    model.graph.initializer.append(numpy_helper.from_array(np.ones(8, np.float32), "w"))
    for i, node in enumerate(model.graph.node):
        node.name = f"n{i}"
    onnx.save(model, tmp_path / "m.onnx")
    graph = load_inferred_graph(tmp_path / "m.onnx")
    assert norm_outputs(graph, graph.outputs) == ({"z"} if found else set())
