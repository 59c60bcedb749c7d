"""Which nodes a constant keeps in FP32, and how far its size reaches."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from graphs.mixed_precision.held_values import beyond
from graphs.precisions import BRAIN, HALF

WEIGHT = np.full((8, 8), 0.1, np.float32)


def _chain(*steps: tuple[str, object]) -> gs.Graph:
    """x through one node per step: its op, and its constant (None without one)."""
    tensor, nodes = gs.Variable("x", np.float32, ("batch", 8)), []
    for i, (op, value) in enumerate(steps):
        made = gs.Variable(f"t{i}", np.float32, ("batch", 8))
        read = [tensor, *([] if value is None else [gs.Constant(f"c{i}", np.asarray(value, np.float32))])]
        nodes.append(gs.Node(op, f"n{i}", inputs=read, outputs=[made]))
        tensor = made
    return gs.Graph(nodes=nodes)


def _kept(*steps: tuple[str, object]) -> list[str]:
    return [name.removeprefix("n") for name in beyond(_chain(*steps), HALF)]


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Max", "Min", "Clip", "Pow", "Greater"])
@pytest.mark.parametrize("value", [1e-12, -1e-8, 1e-6, 1e5, -3.4e38])
def test_a_scalar_that_no_half_holds_keeps_its_node(op: str, value: float) -> None:
    assert _kept((op, value))[:1] == ["0"]


@pytest.mark.parametrize("value", [0.0, 1e-4, 0.1, 2.0**-20, 1000.0, np.inf, -np.inf, np.nan])
def test_what_a_half_holds_keeps_nothing(value: float) -> None:
    for op in ("Add", "Mul", "Max", "Where"):
        assert _kept((op, value)) == []


def test_a_small_element_counts_in_a_scale_and_not_in_a_weight_or_bias() -> None:
    vector, matrix = np.full(8, 0.1, np.float32), WEIGHT.copy()
    vector[3] = matrix[3, 3] = 1e-9
    assert _kept(("Mul", vector)) == [
        "0",
    ]
    assert _kept(("Max", vector)) == ["0"]
    assert _kept(("Add", vector), ("MatMul", matrix), ("Mul", matrix)) == []  # a table of sines, say


def test_what_is_small_as_a_whole_is_kept_in_weights_and_biases_too() -> None:
    assert _kept(("MatMul", WEIGHT * 1e-6)) == ["0"]
    assert _kept(("Add", np.full(8, 1e-7))) == ["0"]
    assert _kept(("MatMul", WEIGHT * 1e7)) == ["0"]


def test_a_bound_reaches_what_is_made_of_it_and_no_further() -> None:
    assert _kept(("Add", 1e-12), ("Sqrt", None), ("Reciprocal", None), ("Mul", 1.0), ("MatMul", WEIGHT)) == list(
        "01234"
    )
    assert _kept(("Add", 1e-4), ("Sqrt", None), ("Reciprocal", None)) == []
    assert _kept(("Max", 1e-12), ("Add", 1.0), ("Relu", None)) == ["0", "1"]
    assert _kept(("Add", 1e-12), ("Log", None), ("Relu", None)) == ["0", "1"]
    assert _kept(("Mul", 1e-9), ("Reshape", None), ("Mul", 1e9), ("Relu", None)) == ["0", "1", "2"]
    assert _kept(("Add", 1e6), ("Sub", 1e6), ("Relu", None)) == ["0", "1"]
    assert _kept(("Add", -1e9), ("Softmax", None), ("Relu", None)) == ["0", "1"]


def test_bf16_has_the_range_of_fp32() -> None:
    assert beyond(_chain(("Add", 1e-30), ("Mul", 1e30)), BRAIN) == {}
    assert list(beyond(_chain(("Add", np.finfo(np.float32).min), ("Softmax", None)), BRAIN)) == ["n0", "n1"]
