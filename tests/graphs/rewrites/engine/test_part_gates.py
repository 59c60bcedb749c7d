"""A gated MLP in two GEMMs over flat rows."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from graphs.rewrites.engine.part_gates import PartGates
from tests.graphs.optimizing import infer, parsed, rewritten

GATED = """\
g (float[batch, 5, 4] x) => (float[batch, 5, 4] out) {
  ["mlp.w12/MatMul"] product = MatMul(x, up)
  ["mlp.w12/Add"] both = Add(product, bias)
  ["mlp/Split"] gate, value = Split<axis = -1, num_outputs = 2>(both)
  ["mlp/Sigmoid"] open = Sigmoid(gate)
  ["mlp/Mul"] silu = Mul(gate, open)
  ["mlp/Mul_1"] gated = Mul(silu, value)
  ["mlp.w3/MatMul"] out = MatMul(gated, down)
}
"""


def example(*changes: tuple[str, str]) -> onnx.ModelProto:
    """A graph in which the rewrite matches; with the changes, one in which it may not."""
    rng = np.random.default_rng(5)
    shapes = {"up": (4, 12), "bias": (12,), "down": (6, 4), "row": (6,), "one": (1,)}
    text = GATED
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return parsed(text, {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()})


def test_the_mlp_is_the_same_to_rounding(rng: np.random.Generator) -> None:
    found = rewritten(example(), PartGates())
    assert found.report.count == 1
    x = rng.standard_normal((3, 5, 4)).astype(np.float32)
    before, after = (infer(each, {"x": x}, optimized=False)[0] for each in (found.before, found.after))
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)


def test_what_it_makes_may_be_an_output_of_the_graph(rng: np.random.Generator) -> None:
    shown = ("=> (float[batch, 5, 4] out)", "=> (float[batch, 5, 4] out, float[batch, 5, 6] gated)")
    found = rewritten(example(shown), PartGates())
    assert found.report.count == 1
    x = rng.standard_normal((3, 5, 4)).astype(np.float32)
    before, after = (infer(each, {"x": x}, optimized=False)[1] for each in (found.before, found.after))
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)


def test_each_half_has_a_gemm_of_its_own_over_rows() -> None:
    after = rewritten(example(), PartGates()).after
    weights = {tensor.name: list(tensor.dims) for tensor in after.graph.initializer}
    gemms = [node for node in after.graph.node if node.op_type == "MatMul"]
    assert sorted(weights[node.input[1]] for node in gemms) == [[4, 6], [4, 6], [6, 4]]
    assert "Split" not in {node.op_type for node in after.graph.node}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ((("MatMul(gated, down)", "MatMul(silu, down)"),), "do not meet"),
        ((("Mul(silu, value)", "Mul(silu, row)"),), "do not meet"),
        (
            (("float[batch, 5, 4] x", "float[batch, n, 4] x"), ("float[batch, 5, 4] out", "float[batch, n, 4] out")),
            "no fixed number",
        ),
        (
            (
                ('["mlp.w3/MatMul"] out', '["other"] spare = Neg(both)\n  ["mlp.w3/MatMul"] out'),
                ("=> (float[batch, 5, 4] out)", "=> (float[batch, 5, 4] out, float[batch, 5, 12] spare)"),
            ),
            "two halves that it alone reads",
        ),
    ],
)
def test_near_misses_say_why(changes: tuple[tuple[str, str], ...], reason: str) -> None:
    found = rewritten(example(*changes), PartGates())
    assert found.report.count == 0
    assert reason in found.report.misses[0].reason


def test_one_number_for_all_channels_is_no_bias_to_cut() -> None:
    found = rewritten(example(("Add(product, bias)", "Add(product, one)")), PartGates())
    assert found.report.count == 0
