"""Drawn rows are of the kind of the given ones: masks stay masks, constants constant, and rows belong together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dsr_export.example_rows.drawn import draw_inputs
from dsr_export.example_rows.kinds import draws_like
from graphs.artifacts import TensorSpec

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)
PREFIX = np.array([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0]])
NOISE = RNG.standard_normal((2, 6, 4)).astype(np.float32)


def _drawn(given: dict[str, Array], rows: int = 12) -> dict[str, Array]:
    specs = [TensorSpec(name=k, dtype=str(v.dtype), shape=("batch", *v.shape[1:])) for k, v in given.items()]
    return draw_inputs(specs, rows, seed=1, draws=draws_like(given), given=given)


@pytest.mark.parametrize(
    "values",
    [
        PREFIX.astype(bool),
        PREFIX.astype(np.float32),
        PREFIX,
        np.where(PREFIX == 1, 0, -np.inf).astype(np.float32),
        np.where(PREFIX == 1, 0, np.finfo(np.float32).min).astype(np.float32),
        np.ones((2, 6), np.float32),
        np.zeros((2, 6, 4), np.float32),
        np.tril(np.ones((2, 6, 6), bool)),
        np.eye(6, dtype=np.float32)[[1, 4]],
        np.tile(np.arange(20, dtype=np.float32), (2, 1)),
        np.stack([np.linspace(0, 1, 20), np.linspace(0, 2, 20)]).astype(np.float32),
        np.broadcast_to(RNG.standard_normal(20).astype(np.float32), (2, 20)),
        np.array([[512, 768], [1024, 640]], np.float32),
        np.array([0.25, 0.75], np.float32),
        np.array([[7, 2, 0, 0], [4, 9, 3, 0]]),
    ],
)
def test_what_holds_a_structure_is_taken_row_by_row(values: Array) -> None:
    drawn = _drawn({"x": NOISE, "other": values})
    np.testing.assert_array_equal(drawn["other"], values[np.arange(12) % 2])
    assert len(np.unique(drawn["x"].reshape(12, -1), axis=0)) == 12


def test_what_one_row_holds_stays_together() -> None:
    drawn = _drawn({"x": NOISE, "mask": PREFIX.astype(bool), "length": PREFIX.sum(1)})
    np.testing.assert_array_equal(drawn["mask"].sum(1), drawn["length"])


def test_measurements_keep_their_range_and_norm() -> None:
    positive = np.abs(NOISE)
    drawn = _drawn(
        {
            "positive": positive,
            "unit": NOISE / np.linalg.norm(NOISE, axis=-1, keepdims=True),
            "shares": positive / positive.sum(-1, keepdims=True),
        }
    )
    assert drawn["positive"].min() >= 0
    np.testing.assert_allclose(np.linalg.norm(drawn["unit"], axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(drawn["shares"].sum(-1), 1, rtol=1e-5)
    assert all(len(np.unique(values)) > 40 for values in drawn.values())


@pytest.mark.parametrize(
    ("given", "drawn"),
    [
        ({"x": np.zeros((2, 6, 4), np.float32), "t": np.ones(2, np.float32)}, {"x"}),
        ({"m": PREFIX.astype(np.float32), "x": np.ones((2, 6, 4), np.float32)}, {"x"}),
        ({"x": np.ones((2, 4), np.float32), "y": np.array([1, 2])}, {"x"}),
        ({"ids": PREFIX, "keep": np.ones((2, 6), np.float32)}, set()),
        ({"attention_mask": np.ones((2, 6), np.float32), "x": np.ones((2, 6), np.float32)}, {"x"}),
    ],
)
def test_a_model_is_not_tested_by_constants_alone(given: dict[str, Array], drawn: set[str]) -> None:
    assert set(draws_like(given)) == drawn
