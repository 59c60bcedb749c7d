"""The numpy definitions against the PyTorch ones, over every rule, choice and mode, non-finite tokens included."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from onnx import helper

import dsr_export.registers as dsr
from graphs.dsr.definitions import DEFINITIONS, evaluate, replace_outliers, shift_register_neurons
from graphs.errors import ExportError
from graphs.rewrites import LOWERINGS

Array = npt.NDArray[Any]
RULES = [("absolute", 3.0), ("median", 1.4), ("sigma", 1.0)]
CHOICES = ["nearest", "gate", "mask", "clip"]


def _tokens(rng: np.random.Generator) -> Array:
    """[3, 9, 4]: some tokens four times as long as others, and one infinite, one NaN in the last image."""
    x = (rng.standard_normal((3, 9, 4)) * rng.choice([1.0, 4.0], (3, 9, 1))).astype(np.float32)
    x[2, 1, 0], x[2, 4, 3] = np.inf, np.nan
    return x


@pytest.mark.parametrize(("rule", "choice"), list(itertools.product(RULES, CHOICES)))
@pytest.mark.parametrize("exclude", [(), (0, -1)])
@pytest.mark.parametrize("rounds", [1, 3])
def test_replacement_is_pytorchs(
    rng: np.random.Generator, rule: tuple[str, float], choice: str, exclude: tuple[int, ...], rounds: int
) -> None:
    x, rows = _tokens(rng), rng.standard_normal((5, 4)).astype(np.float32)
    weights = [rng.standard_normal(shape).astype(np.float32) for shape in ((4, 5), (4, 1), (1,))]
    gate = weights if choice == "gate" else [None] * 3
    name, threshold = rule
    truth = dsr.replace_outliers(
        torch.from_numpy(x), torch.from_numpy(rows), *(None if w is None else torch.from_numpy(w) for w in gate),
        name, threshold, rounds, choice, list(exclude),
    ).numpy()  # fmt: skip
    got = replace_outliers(
        x, rows, *gate, rule=name, threshold=threshold, rounds=rounds, choice=choice, exclude=exclude
    )
    assert got.dtype == np.float32
    assert not np.array_equal(truth, x, equal_nan=True)
    np.testing.assert_allclose(got, truth, rtol=1e-4, atol=1e-5)


def test_an_image_without_outliers_passes_bit_for_bit(rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 6, 4)).astype(np.float32)
    got = replace_outliers(x, x[0, :2], rule="absolute", threshold=1e3, rounds=3, choice="nearest")
    assert np.array_equal(got, x)


def test_excluding_every_row_replaces_nothing() -> None:
    x = np.full((1, 2, 3), 50, np.float32)
    got = replace_outliers(x, x[0], rule="absolute", threshold=1.0, rounds=1, choice="mask", exclude=(0, 1))
    assert np.array_equal(got, x)


def test_a_zero_register_is_never_the_nearest() -> None:
    rows = np.array([[0, 0], [-1, 0]], np.float32)
    x = np.array([[[9, 0]]], np.float32)  # as far from register 1 as can be
    got = replace_outliers(x, rows, rule="absolute", threshold=1.0, rounds=1, choice="nearest")
    assert got.tolist() == [[[-1, 0]]]


@pytest.mark.parametrize("mode", ["zero", "mean", "only_outliers", "same"])
@pytest.mark.parametrize(("rows", "registers", "scale"), [(9, 1, [1.0]), (7, 2, [0.5, -2.0]), (3, 1, [1.0])])
def test_shifting_is_pytorchs(
    rng: np.random.Generator, mode: str, rows: int, registers: int, scale: list[float]
) -> None:
    a = rng.standard_normal((4, rows, 6)).astype(np.float32)
    truth = dsr.shift_register_neurons(torch.from_numpy(a), [1, 4, 4], registers, scale, mode).numpy()
    got = shift_register_neurons(a, neurons=[4, 1, 4], registers=registers, scale=scale, normal_values=mode)
    np.testing.assert_allclose(got, truth, rtol=1e-6, atol=1e-6)
    assert np.array_equal(got[:, 0], a[:, 0])
    assert not np.array_equal(got, a)


def test_every_lowered_op_has_a_definition() -> None:
    assert set(DEFINITIONS) == {op for op, _ in LOWERINGS}


def test_a_node_is_evaluated_by_its_attributes() -> None:
    node = helper.make_node(
        "ReplaceOutliers", ["x", "r"], ["o"], domain="dsr", rule="absolute", threshold=1.0, rounds=1, choice="clip"
    )
    x = np.array([[[3, 4], [0, 0.5]]], np.float32)
    np.testing.assert_allclose(evaluate(node, [x, x[0]]), [[[0.6, 0.8], [0, 0.5]]], rtol=1e-6)
    with pytest.raises(ExportError, match=r"dsr\.Other"):
        evaluate(helper.make_node("Other", ["x"], ["o"], name="n", domain="dsr"), [x])
