"""An RMSNorm behind a replacement takes its mean of squares from the detection."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from graphs.dsr import definitions
from tests.graphs.symbolic import lowered, operators, replace_outliers_model, session

DIM, TOKENS = 16, 12
ATTRIBUTES = {"rule": "median", "threshold": 2.0, "rounds": 2, "choice": "nearest"}


def _model(registers: np.ndarray, square: onnx.NodeProto, *, axis: int = -1, keepdims: int = 1) -> onnx.ModelProto:
    """`x -> out = y / sqrt(mean(y^2))` for replaced tokens y."""
    model = replace_outliers_model(TOKENS, registers, exclude=(0, 1), **ATTRIBUTES)
    model.graph.node[0].output[0] = "y"
    model.graph.node.extend(
        [
            square,
            helper.make_node("ReduceMean", ["square", "axis"], ["mean"], name="norm/ReduceMean", keepdims=keepdims),
            helper.make_node("Sqrt", ["mean"], ["size"], name="norm/Sqrt"),
            helper.make_node("Div", ["y", "size"], ["out"], name="norm/Div"),
        ]
    )
    constants = {"two": np.array(2, np.float32), "three": np.array(3, np.float32), "axis": np.array([axis])}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    return model


def _pow(exponent: str = "two") -> onnx.NodeProto:
    return helper.make_node("Pow", ["y", exponent], ["square"], name="norm/Pow")


def _tokens(rng: np.random.Generator) -> np.ndarray:
    x = rng.standard_normal((3, TOKENS, DIM)).astype(np.float32)
    x[0, 4] *= 50
    x[1, [2, 7]] *= 9
    x[:, 0] *= 100  # excluded: large, and kept
    return x


@pytest.mark.parametrize("square", [_pow(), helper.make_node("Mul", ["y", "y"], ["square"], name="norm/Mul")])
@pytest.mark.parametrize("axis", [-1, 2])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_norm_is_the_same(
    square: onnx.NodeProto, axis: int, scale: float, tmp_path: Path, rng: np.random.Generator
) -> None:
    registers = (scale * rng.standard_normal((4, DIM))).astype(np.float32)
    model, _ = lowered(_model(registers, square, axis=axis), tmp_path)
    assert "ReduceMean" not in operators(model)
    assert operators(model).count("ReduceSum") == 1
    x = _tokens(rng)
    y = definitions.replace_outliers(x, registers, exclude=(0, 1), **ATTRIBUTES)
    assert (y != x).any(axis=-1).sum() >= 3
    expected = y / np.sqrt(np.square(y).mean(axis=-1, keepdims=True))
    np.testing.assert_allclose(session(model).run(None, {"x": x})[0], expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("square", "keywords"),
    [
        (_pow("three"), {}),
        (helper.make_node("Mul", ["y", "x"], ["square"], name="norm/Mul"), {}),
        (_pow(), {"axis": 1}),
    ],
)
def test_other_means_are_left_alone(
    square: onnx.NodeProto, keywords: dict[str, int], tmp_path: Path, rng: np.random.Generator
) -> None:
    model, _ = lowered(_model(rng.standard_normal((4, DIM)).astype(np.float32), square, **keywords), tmp_path)
    assert "ReduceMean" in operators(model)


def test_a_replacement_that_no_norm_reads_computes_nothing_for_it(tmp_path: Path, rng: np.random.Generator) -> None:
    plain = replace_outliers_model(TOKENS, rng.standard_normal((4, DIM)).astype(np.float32), **ATTRIBUTES)
    names = [node.name for node in onnx.load(lowered(plain, tmp_path)[0].path).graph.node]
    assert not [name for name in names if "squares_after" in name or "mean_squares" in name]
