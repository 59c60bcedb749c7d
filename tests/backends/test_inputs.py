from __future__ import annotations

import numpy as np
import pytest

from dsr_export.backends.inputs import check_inputs
from dsr_export.errors import ExportError
from graphs.artifacts import TensorSpec

SPECS = (
    TensorSpec(name="x", dtype="float32", shape=("batch", 4)),
    TensorSpec(name="y", dtype="int64", shape=("batch",)),
    TensorSpec(name="scale", dtype="float32", shape=()),
)


def inputs(**changed: object) -> dict[str, np.ndarray]:
    good = {"x": np.zeros((2, 4), np.float32), "y": np.zeros(2, np.int64), "scale": np.float32(1)}
    return {**good, **changed}  # type: ignore[dict-item]


def test_arrays_come_back_contiguous_in_the_order_of_the_specs() -> None:
    given = inputs(x=np.asfortranarray(np.arange(8, dtype=np.float32).reshape(2, 4)))
    checked = check_inputs(dict(reversed(given.items())), SPECS)
    assert list(checked) == ["x", "y", "scale"]
    assert all(array.flags.c_contiguous for array in checked.values())
    np.testing.assert_array_equal(checked["x"], given["x"])
    assert checked["scale"].shape == ()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": np.zeros((2, 4))}, r"'x' is float64, and the model takes float32"),
        ({"y": np.zeros(2, np.int32)}, r"'y' is int32"),
        ({"x": np.zeros((2, 5), np.float32)}, r"'x' has shape \[2, 5\], and the model takes \[batch, 4\]$"),
        ({"x": np.zeros((2, 4, 1), np.float32)}, r"takes \[batch, 4\]"),
        ({"y": np.zeros(3, np.int64)}, r"'y' has shape \[3\], .*batch = 2"),
        ({"x": np.zeros((0, 4), np.float32), "y": np.zeros(0, np.int64)}, r"shape \[0, 4\]"),
        ({"z": np.zeros(1)}, r"no input 'z'"),
    ],
)
def test_mistakes_are_named(changed: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        check_inputs(inputs(**changed), SPECS)


def test_a_missing_input_lists_what_there_is() -> None:
    with pytest.raises(ExportError, match="'y' is missing") as caught:
        check_inputs({"x": np.zeros((2, 4), np.float32)}, SPECS)
    assert "y int64 [batch]" in (caught.value.hint or "")
