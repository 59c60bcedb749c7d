"""Gated MLPs of an odd width: wider, and the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from dsr_export.families import load_subject
from graphs.files import load_inferred_graph, save_graph
from graphs.lowering import lower, optimize
from graphs.quantize.gate_padding import pad_gated_mlps
from graphs.weights.gemms import weight_gemms


def _optimised(folder: Path, hidden: int) -> tuple[Path, dict[str, np.ndarray]]:
    """One block; the SwiGLU's width is int(8 / 3 * hidden)."""
    subject = load_subject(
        "rae-dit",
        random_weights=0,
        input_size=4,
        in_channels=8,
        hidden_size=hidden,
        depth=1,
        num_heads=2,
        num_classes=5,
        register_conditioning=False,
    )
    lowered, _ = lower(subject.trace(folder / "traced.onnx"), folder / "lowered.onnx")
    return optimize(lowered, folder / "optimized.onnx")[0].path, subject.example(2, seed=0)


def _run(path: Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    return np.asarray(onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, feeds)[0])


def _widths(path: Path) -> dict[str, int]:
    return {gemm.name: gemm.in_features for gemm in weight_gemms(load_inferred_graph(path))}


def test_an_odd_width_is_padded_and_computes_the_same(tmp_path: Path) -> None:
    path, feeds = _optimised(tmp_path, 40)
    assert _widths(path)["blocks.0.mlp.w3"] == 106
    graph = load_inferred_graph(path)
    assert pad_gated_mlps(graph) == ["blocks.0.mlp.w3"]
    save_graph(graph, tmp_path / "padded.onnx")
    assert _widths(tmp_path / "padded.onnx")["blocks.0.mlp.w3"] == 112
    np.testing.assert_allclose(_run(tmp_path / "padded.onnx", feeds), _run(path, feeds), rtol=1e-5, atol=1e-6)
    assert pad_gated_mlps(load_inferred_graph(tmp_path / "padded.onnx")) == []


@pytest.mark.slow
def test_a_width_that_fits_is_left_alone(tmp_path: Path) -> None:
    path, _ = _optimised(tmp_path, 48)
    assert _widths(path)["blocks.0.mlp.w3"] == 128
    assert pad_gated_mlps(load_inferred_graph(path)) == []
