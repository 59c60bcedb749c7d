"""Products behind a divisor that a tiny epsilon guards: linear attention stays in FP32."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from graphs.mixed_precision.guarded_quotients import guarded_quotients
from graphs.precisions import PRECISIONS, Precision


def linear_attention(epsilon: float, *, weight: bool = False) -> gs.Graph:
    """`(v k) q`, its rows but the last over the last; with `weight`, `q` is one."""
    v, k, q, sums, made, rows, last, guarded, out = (
        gs.Variable(name, np.float32) for name in ("v", "k", "q", "sums", "made", "rows", "last", "guarded", "out")
    )
    factor = gs.Constant("w", np.ones((2, 2), np.float32)) if weight else q
    nodes = [
        gs.Node("MatMul", "first", inputs=[v, k], outputs=[sums]),
        gs.Node("MatMul", "second", inputs=[sums, factor], outputs=[made]),
        gs.Node("Slice", "upper", inputs=[made], outputs=[rows]),
        gs.Node("Slice", "lower", inputs=[made], outputs=[last]),
        gs.Node("Add", "add", inputs=[last, gs.Constant("e", np.array(epsilon, np.float32))], outputs=[guarded]),
        gs.Node("Div", "divide", inputs=[rows, guarded], outputs=[out]),
    ]
    return gs.Graph(nodes=nodes, inputs=[v, k, q], outputs=[out])


def test_both_products_and_what_moves_them_compute_in_fp32() -> None:
    assert guarded_quotients(linear_attention(1e-15), PRECISIONS["fp16"].held) == {"first", "second", "upper", "lower"}


@pytest.mark.parametrize(("epsilon", "precision"), [(1e-3, "fp16"), (0.0, "fp16"), (1e-15, "bf16")])
def test_a_divisor_that_the_type_holds_needs_nothing(epsilon: float, precision: Precision) -> None:
    assert guarded_quotients(linear_attention(epsilon), PRECISIONS[precision].held) == set()


def test_a_product_with_a_weight_is_a_layer() -> None:
    assert guarded_quotients(linear_attention(1e-15, weight=True), PRECISIONS["fp16"].held) == set()
