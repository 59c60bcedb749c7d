"""Taps show what a lowered site reads, what it makes, and which tokens it replaced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from graphs.artifacts import OptimizedModel
from graphs.observe.site_taps import add_site_taps
from tests.graphs.symbolic import lowered, replace_outliers_model, session, shift_neurons_model

DIM, TOKENS = 16, 12
SHIFT = {"neurons": [3], "registers": 1, "normal_values": "zero", "scale": [1.0]}


def _tapped(folder: Path, **attributes: Any) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Outputs of the tapped copy by role, the tokens in front of the site, and what the original makes of them."""
    rng = np.random.default_rng(0)
    gate = [(0.01 * rng.standard_normal(s)).astype(np.float32) for s in ((DIM, 3), (DIM, 1), (1,))]
    registers = rng.standard_normal((3, DIM)).astype(np.float32)
    weights = gate if attributes["choice"] == "gate" else []
    settings = {"rule": "median", "threshold": 2.0, "rounds": 2, "exclude": (0, 1), **attributes}
    model, _ = lowered(replace_outliers_model(TOKENS, registers, *weights, **settings), folder)
    x = rng.standard_normal((2, TOKENS, DIM)).astype(np.float32)
    x[0, 5] *= 30
    x[1, [2, 11]] *= 50
    (tap,) = add_site_taps(OptimizedModel(path=model.path), folder / "tapped.onnx")
    assert tap.site == "blocks.0"
    names = {"out": "out", "before": tap.before, "after": tap.after, **{name: name for name in tap.replaced}}
    run = onnxruntime.InferenceSession(str(folder / "tapped.onnx"), providers=["CPUExecutionProvider"])
    made = dict(zip(names, run.run(list(names.values()), {"x": x}), strict=True))
    made["replaced"] = np.any([made[name][..., 0] for name in tap.replaced], axis=0)
    return made, x, session(model).run(["out"], {"x": x})[0]


@pytest.mark.parametrize("choice", ["nearest", "mask", "gate", "clip"])
def test_norms_and_replaced_tokens_are_those_of_the_site(choice: str, tmp_path: Path) -> None:
    made, x, out = _tapped(tmp_path, choice=choice)
    np.testing.assert_array_equal(made["out"], out)
    np.testing.assert_allclose(made["before"], np.linalg.norm(x, axis=2), rtol=1e-5)
    np.testing.assert_allclose(made["after"], np.linalg.norm(out, axis=2), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(made["replaced"], (x != out).any(axis=2))
    assert made["replaced"].sum() >= 3


def test_a_graph_without_replacement_has_no_taps_and_no_copy(tmp_path: Path) -> None:
    model, _ = lowered(shift_neurons_model(4, 8, **SHIFT), tmp_path)
    assert any(node.op_type == "Where" for node in onnx.load(model.path).graph.node)  # named as those of a replacement
    assert add_site_taps(OptimizedModel(path=model.path), tmp_path / "tapped.onnx") == []
    assert not (tmp_path / "tapped.onnx").exists()
