"""Rotary embeddings as one operator of ONNX Runtime's."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from graphs.rewrites.runtime.rotate_at_once import RotateAtOnce
from tests.graphs.optimizing import Array, infer, listing, parsed, rewritten

HEADS, SIZE, TOKENS = 2, 6, 5
START = """\
g (float[batch, 5, 12] x) => (float[batch, 2, 5, 6] out) {
  ["attn/Rows"] rows = Reshape(x, heads)
  ["attn/Laid"] laid = Transpose<perm = [0, 2, 1, 3]>(rows)
"""
PAIRS = """\
  ["rope/Pairs"] pairs = Reshape(laid, paired)
  ["rope/Split"] even, odd = Split<axis = 4, num_outputs = 2>(pairs)
  ["rope/Concat"] stack = Concat<axis = -1>(odd, even)
  ["rope/Swapped"] swapped = Reshape(stack, flat)
"""
HALVES = """\
  ["rope/First"] first, second = Split<axis = -1, num_outputs = 2>(laid)
  ["rope/Neg"] minus = Neg(second)
  ["rope/Concat"] swapped = Concat<axis = -1>(minus, first)
"""
END = """\
  ["rope/Cos"] a = Mul(laid, cos)
  ["rope/Sin"] b = Mul(swapped, sin)
  ["rope/Add"] out = Add(a, b)
}
"""
GOLDEN = """\
dsr/runtime/rope/Add.turned: dsr/runtime/rope/Add.turned = \
RotaryEmbedding(x, dsr/runtime/rope/Add.first, dsr/runtime/rope/Add.cos, dsr/runtime/rope/Add.sin)
dsr/runtime/rope/Add.heads: dsr/runtime/rope/Add.heads = \
Reshape(dsr/runtime/rope/Add.turned, dsr/runtime/rope/Add.parted)
dsr/runtime/rope/Add.laid: out = Transpose(dsr/runtime/rope/Add.heads)
"""


def angles(swap: str) -> Array:
    """Of each token and channel; the first tokens, registers, are not turned at all."""
    each = np.outer([0, 0, 1, 2, 3], 1 / np.arange(1, SIZE // 2 + 1))
    return each.repeat(2, axis=1) if swap == "pairs" else np.concatenate([each, each], axis=1)


def example(*changes: tuple[str, str], swap: str = "pairs", bent: bool = False) -> onnx.ModelProto:
    """A graph in which the rewrite matches; with the changes, or `bent` tables, one in which it may not."""
    turn = angles(swap)
    sines = np.sin(turn) * (np.where(np.arange(SIZE) % 2, 1, -1) if swap == "pairs" else 1)
    arrays = {"cos": np.cos(turn).astype(np.float32), "sin": sines.astype(np.float32)}
    if bent:
        arrays["cos"][3, 0] += 0.25
    arrays |= {"weight": np.ones(SIZE, np.float32), "heads": np.array([-1, TOKENS, HEADS, SIZE])}
    arrays |= {"paired": np.array([-1, HEADS, TOKENS, SIZE // 2, 2]), "flat": np.array([-1, HEADS, TOKENS, SIZE])}
    text = START + {"pairs": PAIRS, "halves": HALVES}[swap] + END
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return parsed(text, arrays)


def oracle(x: Array, swap: str) -> Array:
    """Pairs of channels as complex numbers, each turned by its angle."""
    heads = x.astype(np.float64).reshape(len(x), TOKENS, HEADS, SIZE).transpose(0, 2, 1, 3)
    first, second = (slice(0, None, 2), slice(1, None, 2)) if swap == "pairs" else (slice(0, 3), slice(3, 6))
    turned = (heads[..., first] + 1j * heads[..., second]) * np.exp(1j * angles(swap)[:, first])
    made = np.empty_like(heads)
    made[..., first], made[..., second] = turned.real, turned.imag
    return made


NORM = (
    '  ["attn/Laid"] laid = Transpose<perm = [0, 2, 1, 3]>(rows)\n',
    '  ["attn/Laid"] raw = Transpose<perm = [0, 2, 1, 3]>(rows)\n  ["attn/Norm"] laid = Mul(raw, weight)\n',
)


@pytest.mark.parametrize("swap", ["pairs", "halves"])
@pytest.mark.parametrize("changes", [(), (NORM,)], ids=["rows", "heads"])
def test_tokens_are_turned(swap: str, changes: tuple[tuple[str, str], ...], rng: np.random.Generator) -> None:
    found = rewritten(example(*changes, swap=swap), RotateAtOnce())
    assert found.report.count == 1
    x = rng.standard_normal((3, TOKENS, HEADS * SIZE)).astype(np.float32)
    before, after = (infer(model, {"x": x})[0] for model in (found.before, found.after))
    np.testing.assert_allclose(after, oracle(x, swap), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)
    assert [node.op_type for node in found.after.graph.node].count("RotaryEmbedding") == 1


def test_rows_are_turned_where_heads_are_a_view_of_them() -> None:
    found = rewritten(example(), RotateAtOnce())
    assert listing(found.after) == GOLDEN
    assert found.after.graph.node[0].domain == "com.microsoft"
    assert rewritten(found.after, RotateAtOnce()).report.sites == ()


@pytest.mark.parametrize(
    ("changes", "bent", "reason"),
    [((), True, "different angles"), ((("float[", "double["),), False, "no kernel")],
)
def test_near_misses_say_why(changes: tuple[tuple[str, str], ...], bent: bool, reason: str) -> None:
    model = example(*changes, bent=bent)
    for tensor in model.graph.initializer if changes else ():
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(float), tensor.name))
    found = rewritten(model, RotateAtOnce())
    assert found.report.count == 0
    assert reason in found.report.misses[0].reason


def test_a_sum_of_other_products_is_no_candidate() -> None:
    found = rewritten(example(("Mul(swapped, sin)", "Mul(laid, sin)")), RotateAtOnce())
    assert (found.report.count, found.report.misses) == (0, ())
