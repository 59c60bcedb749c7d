"""How large the weights of a graph's products are, and what they are multiplied in."""

from __future__ import annotations

import onnx
import pytest

from dsr_export.engine_schedule.graph_sites import GraphSites
from dsr_export.engine_schedule.graph_weights import Weight, graph_weights
from tests.backends.tiny_models import parse
from tests.engine_schedule.tiny_plan import NODES, tiny_graph

HALF, INT8 = onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8


def _weights(body: str, *dims: int) -> list[Weight]:
    model = parse("(float16[2,6] x) => (float16[a,b] y)", body)
    model.graph.initializer.append(onnx.helper.make_tensor("w", HALF, dims, bytes(2 * 24), raw=True))
    return list(graph_weights(GraphSites(model)).values())


def test_codes_have_no_type_of_their_own_and_floats_that_of_the_graph() -> None:
    assert graph_weights(GraphSites(tiny_graph())) == {
        NODES[1]: Weight(NODES[1], 32, 96, "float16"),
        NODES[8]: Weight(NODES[8], 32, 32, None),
    }


@pytest.mark.parametrize(
    ("body", "dims", "expected"),
    [
        ("y = MatMul(x, w)", (6, 4), (6, 4)),
        ("y = Gemm<transB=1>(x, w)", (4, 6), (6, 4)),
        ("t = Transpose<perm=[1, 0]>(w) y = MatMul(x, t)", (4, 6), (6, 4)),
        ("c = Cast<to=10>(w) y = MatMul(x, c)", (6, 4), (6, 4)),
        ("t = Transpose<perm=[1, 0]>(x) y = MatMul(w, t)", (4, 6), (6, 4)),
        ("t = Transpose<perm=[1, 0]>(x) y = Gemm<transA=1>(w, t)", (6, 4), (6, 4)),
        ("y = Conv(x, w)", (2, 3, 2, 2), (12, 2)),
    ],
)
def test_rows_are_what_is_summed_over(body: str, dims: tuple[int, ...], expected: tuple[int, int]) -> None:
    [found] = _weights(body, *dims)
    assert (found.rows, found.columns, found.count, found.type) == (*expected, 24, "float16")


@pytest.mark.parametrize(
    ("body", "dims"),
    [
        ("y = MatMul(x, w)", (2, 6, 2)),
        ("t = Transpose(w) y = MatMul(x, t)", (4, 6)),
        ("r = Relu(w) y = MatMul(x, r)", (6, 4)),
        ("y = Conv<group=2>(x, w)", (2, 3, 2, 2)),
    ],
)
def test_what_the_graph_does_not_tell_is_left_out(body: str, dims: tuple[int, ...]) -> None:
    assert _weights(body, *dims) == []
