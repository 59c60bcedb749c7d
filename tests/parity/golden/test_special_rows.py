"""Rows that random draws do not make, and which of them a reference is asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dsr_export.parity.golden.special_rows import settled_rows, special_rows

Array = np.ndarray[Any, Any]
X = np.random.default_rng(0).standard_normal((3, 4, 2)).astype(np.float32)


def _others(known: dict[str, Array], name: str, *, empty: bool = False) -> list[Any]:
    """The variants of one input, behind the row itself, which comes twice."""
    rows = special_rows(known, empty=empty)[name]
    np.testing.assert_array_equal(rows[:2], known[name][[0, 0]])
    return [row.tolist() for row in rows[2:]]


@pytest.mark.parametrize(
    ("values", "off", "on"),
    [
        (np.array([[True, False], [True, True]]), False, True),
        (np.array([[1, 0], [1, 1]]), 0, 1),
        (np.ones((2, 2), np.float32), 0, 1),
        (np.array([[0, -np.inf], [0, 0]], np.float32), -np.inf, 0),
        (np.array([[0, -1e4], [0, 0]], np.float32), -1e4, 0),
    ],
)
def test_masks_are_off_and_on(values: Array, off: Any, on: Any) -> None:
    assert _others({"m": values}, "m") == [[off, off], [on, on]]


@pytest.mark.parametrize("values", [np.array([[3, 7], [1, 2]]), np.zeros((2, 2), np.float32), X])
def test_what_is_no_mask_is_not_masked(values: Array) -> None:
    assert _others({"v": values}, "v") == []


def test_one_row_of_a_square_mask_has_nothing_to_attend_to() -> None:
    assert _others({"m": np.ones((2, 2, 2), bool)}, "m")[2] == [[False, False], [True, True]]


def test_floats_are_emptied_together_alone_and_by_half() -> None:
    known = {"x": X, "c": X[:, 0], "t": np.ones(3, np.float32) * 0.3}
    zeros = [[name for name, values in _rows(known) if not np.any(values[i])] for i in range(2, 6)]
    assert zeros == [["x", "c"], ["x"], ["c"], ["t"]]
    rows = special_rows(known, empty=True)["x"]
    np.testing.assert_array_equal(rows[6], np.concatenate([X[0, :2], np.zeros((2, 2))]))
    np.testing.assert_array_equal(rows[7], X[0][[0, 0, 0, 0]])


def _rows(known: dict[str, Array]) -> list[tuple[str, Array]]:
    return list(special_rows(known, empty=True).items())


def test_only_rows_that_the_reference_is_finite_on_are_kept() -> None:
    def divide(inputs: dict[str, Array]) -> dict[str, Array]:
        with np.errstate(all="ignore"):
            return {"out": inputs["x"] / inputs["x"]}

    inputs, outputs = settled_rows(divide, special_rows({"x": X}, empty=True))
    assert len(inputs["x"]) == len(outputs["out"]) == 3  # twice as given, and of equal tokens
    assert settled_rows(divide, special_rows({"x": 0 * X}, empty=True)) == ({}, {})


def test_a_row_that_the_reference_refuses_is_left_out() -> None:
    def strict(inputs: dict[str, Array]) -> dict[str, Array]:
        if (inputs["x"] == 0).all(axis=(1, 2)).any():
            raise ValueError("nothing there")
        return inputs

    inputs, _ = settled_rows(strict, special_rows({"x": X}, empty=True))
    assert len(inputs["x"]) == 4


def test_rows_whose_answer_is_rounding_blown_up_are_left_out() -> None:
    """The variance of equal tokens is nothing but rounding, and a tiny epsilon divides by it; zeros stay zeros."""

    def centred(inputs: dict[str, Array]) -> dict[str, Array]:
        x = inputs["x"]
        y = x - x.mean(axis=1, keepdims=True)
        return {"out": y / np.sqrt(np.square(y).mean(axis=1, keepdims=True) + np.float32(1e-15))}

    equal = special_rows({"x": X}, empty=True)["x"][-1]
    inputs, outputs = settled_rows(centred, special_rows({"x": X}, empty=True))
    assert len(outputs["out"]) == len(inputs["x"]) == 4
    assert not any(np.array_equal(row, equal) for row in inputs["x"])
    assert any(not row.any() for row in inputs["x"])


@pytest.mark.parametrize(("error", "kept"), [(1e-5, 7), (1e-3, 6), (np.inf, 6), (np.nan, 6)])
def test_rows_that_change_where_the_reference_rounds_otherwise_are_left_out(error: float, kept: int) -> None:
    """FP32's tolerance is 1e-4; zeros are the row that changes, and no nudge of the inputs shows it."""
    rows = special_rows({"x": X, "c": X[:, 0]}, empty=True)

    def infer(inputs: dict[str, Array]) -> dict[str, Array]:
        return {"out": inputs["x"] + 1, "index": np.arange(len(inputs["x"]))}

    def otherwise(inputs: dict[str, Array]) -> dict[str, Array]:
        both = ~inputs["x"].any(axis=(1, 2)) & ~inputs["c"].any(axis=1)
        out = infer(inputs)["out"] + np.where(both, np.float32(error), np.float32(0))[:, None, None]
        return {"out": out, "index": -np.arange(len(out))}

    inputs, _ = settled_rows(infer, rows, otherwise)
    assert (len(inputs["x"]), len(rows["x"])) == (kept, 7)
    assert len(settled_rows(infer, rows)[0]["x"]) == 7


def test_a_reference_that_cannot_round_otherwise_is_nudged_alone() -> None:
    def fails(_: dict[str, Array]) -> dict[str, Array]:
        raise TypeError("no such dispatch")

    rows = special_rows({"x": X}, empty=True)
    assert len(settled_rows(lambda inputs: {"out": inputs["x"]}, rows, fails)[0]["x"]) == len(rows["x"])
