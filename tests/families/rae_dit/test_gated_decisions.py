"""The lowered graph of `digits-gated` changes the same tokens as the PyTorch loop, by a gate that was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from dsr_export.families import load_subject
from graphs.files import load_graph, save_graph
from graphs.lowering import lower
from tests.graphs.rewrites.test_lower_replace_outliers import adversarial_inputs

LAYER, TOKENS, DIM, REGISTERS = 3, 68, 128, 4
NODE = f"dsr/lower/replacements.{LAYER}/out"


def _site(traced: Any, folder: Path) -> onnxruntime.InferenceSession:
    """The gated site alone: tokens in, tokens out."""
    lower(traced, folder / "lowered.onnx")
    graph = load_graph(folder / "lowered.onnx")
    (result,) = (node for node in graph.nodes if node.name == NODE)
    tokens = result.inputs[2]  # Where(replaced, mixture, token)
    tokens.inputs.clear()
    tokens.dtype, tokens.shape = np.float32, ("batch", TOKENS, DIM)
    graph.inputs, graph.outputs = [tokens], result.outputs
    save_graph(graph, folder / "site.onnx")
    return onnxruntime.InferenceSession(str(folder / "site.onnx"), providers=["CPUExecutionProvider"])


def test_the_trained_gate_decides_alike(tmp_path: Path, rng: np.random.Generator) -> None:
    subject = load_subject("digits-gated")
    module: Any = subject.module
    site, session = module.replacements[str(LAYER)], _site(subject.trace(tmp_path / "traced.onnx"), tmp_path)
    registers, changed = module.registers().numpy(), 0
    for _ in range(8):
        for x in adversarial_inputs(rng, TOKENS, registers):
            expected = site(torch.from_numpy(x)).numpy()
            made = session.run(None, {session.get_inputs()[0].name: x})[0]
            np.testing.assert_array_equal((made != x).any(-1), (expected != x).any(-1))
            finite = np.isfinite(expected)
            size = np.abs(expected[finite]).max(initial=1.0)
            np.testing.assert_allclose(made[finite], expected[finite], rtol=1e-4, atol=1e-4 * min(size, 100.0))
            changed += int((expected != x).any(-1).sum())
    assert changed > 100
