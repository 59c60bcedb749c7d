"""Rows of one sample, whatever axes tokens and batch have."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from graphs.weights.sample_rows import sample_rows

NAMED = {  # shape of an activation, of a batch "B" -> rows of one sample, axis of the batch
    "tokens": (["B", 16, 8], (16, 0)),
    "a condition": (["B", 8], (1, 0)),
    "frames, rows and columns": (["B", 3, 4, 5, 8], (60, 0)),
    "frames in the batch": (["3*B", 16, 8], (48, 0)),
    "frames in the batch, the other way around": (["B*3", 16, 8], (48, 0)),
    "tokens in the batch": (["16*B", 8], (16, 0)),
    "tokens in front of the batch": ([16, "B", 8], (16, 1)),
    "another name for the batch": (["unk", 16, 8], (16, 0)),
    "no name for the batch": ([None, 16, 8], (16, 0)),
    "the same for every sample": ([1, 16, 8], None),
    "unknown tokens": (["B", None, 8], None),
    "an unknown number of rows": (["unk", 8], None),
    "an unknown axis behind tokens": ([16, "unk", 8], None),
    "frames in a batch behind tokens": ([16, "3*B", 8], None),
    "another batch": (["3*Bee", 8], None),
    "a vector": (["B"], None),
}
NUMBERED = {  # of a batch of 2
    "tokens": ([2, 16, 8], (16, 0)),
    "frames in the batch": ([6, 16, 8], (48, 0)),
    "a condition": ([2, 8], (1, 0)),
    "maybe tokens of all": ([32, 8], None),
    "the same for every sample": ([1, 16, 8], None),
}


@pytest.mark.parametrize("case", NAMED)
def test_by_the_name_of_the_batch(case: str) -> None:
    shape, expected = NAMED[case]
    assert sample_rows(gs.Variable("x", np.float32, shape), "B") == expected


@pytest.mark.parametrize("case", NUMBERED)
def test_by_the_size_of_the_batch(case: str) -> None:
    shape, expected = NUMBERED[case]
    assert sample_rows(gs.Variable("x", np.float32, shape), 2) == expected


def test_all_rows_are_those_of_a_single_sample() -> None:
    assert sample_rows(gs.Variable("x", np.float32, [32, 8]), 1) == (32, 0)
    assert sample_rows(gs.Variable("x", np.float32, [4, 32, 8]), 1) == (128, 0)
    assert sample_rows(gs.Variable("x", np.float32, [1, 8]), 1) == (1, 0)
