"""Attention as one operator of ONNX Runtime's."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest

from graphs.mixed_precision.emulate import emulate_low
from graphs.rewrites.runtime.attend_at_once import AttendAtOnce
from tests.graphs.optimizing import Array, infer, listing, parsed, rewritten

HEADS, SIZE, TOKENS = 2, 4, 5
WIDTH = HEADS * SIZE
ATTENTION = """\
g (float[batch, 5, 8] q, float[batch, 7, 8] k, float[batch, 7, 8] v) => (float[batch, 5, 8] out) {
  ["attn/Rows_q"] q_rows = Reshape(q, heads)
  ["attn/Rows_k"] k_rows = Reshape(k, other)
  ["attn/Rows_v"] v_rows = Reshape(v, other)
  ["attn/Q"] q_heads = Transpose<perm = [0, 2, 1, 3]>(q_rows)
  ["attn/K"] k_heads = Transpose<perm = [0, 2, 1, 3]>(k_rows)
  ["attn/V"] v_heads = Transpose<perm = [0, 2, 1, 3]>(v_rows)
  ["attn/Mul"] scaled = Mul(q_heads, scale)
  ["attn/Keys"] keys = Transpose<perm = [0, 1, 3, 2]>(k_heads)
  ["attn/MatMul"] scores = MatMul(scaled, keys)
  ["attn/Softmax"] share = Softmax<axis = -1>(scores)
  ["attn/MatMul_1"] mixed = MatMul(share, v_heads)
  ["attn/Laid"] laid = Transpose<perm = [0, 2, 1, 3]>(mixed)
  ["attn/Out"] out = Reshape(laid, flat)
}
"""
GOLDEN = """\
dsr/runtime/attn/Softmax.attended: dsr/runtime/attn/Softmax.attended = MultiHeadAttention(q, k, v)
dsr/runtime/attn/Softmax.heads: laid = Reshape(dsr/runtime/attn/Softmax.attended, dsr/runtime/attn/Softmax.parted)
attn/Out: out = Reshape(laid, flat)
"""
NORMED = (
    '  ["attn/Q"] q_heads = Transpose<perm = [0, 2, 1, 3]>(q_rows)\n',
    '  ["attn/Norm"] normed = LayerNormalization<axis = -1>(q_rows, weight)\n'
    '  ["attn/Q"] q_heads = Transpose<perm = [0, 2, 1, 3]>(normed)\n',
)
NORMED_HEADS = (
    "Mul(q_heads, scale)",
    'LayerNormalization<axis = -1>(q_heads, weight)\n  ["attn/Times"] spare = Neg(q)',
)
DIVIDED = (
    ("Mul(q_heads, scale)", "Identity(q_heads)"),
    ("Softmax<axis = -1>(scores)", "Softmax<axis = 3>(less)"),
    ('  ["attn/Softmax"]', '  ["attn/Div"] less = Div(scores, root)\n  ["attn/Softmax"]'),
)


def example(*changes: tuple[str, str], half: bool = False) -> onnx.ModelProto:
    """A graph in which the rewrite matches; with the changes, one in which it may not."""
    arrays: dict[str, Array] = {"scale": np.array([0.3]), "root": np.array(2.0), "weight": np.linspace(0.5, 2, SIZE)}
    arrays |= {"heads": np.array([-1, TOKENS, HEADS, SIZE]), "other": np.array([-1, 7, HEADS, SIZE])}
    arrays |= {"mask": np.zeros((TOKENS, 7)), "flat": np.array([0, 0, WIDTH])}
    kind = np.float16 if half else np.float32
    text = ATTENTION
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    known = {name: a.astype(kind) if a.dtype.kind == "f" else a for name, a in arrays.items()}
    return parsed(text.replace("float[", "float16[") if half else text, known)


def drawn(rng: np.random.Generator, kind: type = np.float32) -> dict[str, Array]:
    """Queries, keys and values of three rows of a batch."""
    tokens = {"q": TOKENS, "k": 7, "v": 7}
    return {name: rng.standard_normal((3, count, WIDTH)).astype(kind) for name, count in tokens.items()}


def oracle(x: Mapping[str, Array], scale: float, *, normed: bool = False) -> Array:
    """What attention is, in numpy and float64."""
    q, k, v = (x[name].astype(np.float64).reshape(3, -1, HEADS, SIZE).transpose(0, 2, 1, 3) for name in "qkv")
    if normed:
        q = (q - q.mean(-1, keepdims=True)) / np.sqrt(q.var(-1, keepdims=True) + 1e-5) * np.linspace(0.5, 2, SIZE)
    scores = q @ k.transpose(0, 1, 3, 2) * scale
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = shares / shares.sum(-1, keepdims=True) @ v
    return mixed.transpose(0, 2, 1, 3).reshape(3, TOKENS, WIDTH)


@pytest.mark.parametrize(
    ("changes", "scale", "normed"),
    [((), 0.3, False), ((NORMED,), 0.3, True), ((NORMED_HEADS,), 1.0, True), (DIVIDED, 0.5, False)],
    ids=["rows", "normed rows", "normed heads", "divided"],
)
def test_it_is_attention(
    changes: tuple[tuple[str, str], ...], scale: float, normed: bool, rng: np.random.Generator
) -> None:
    found = rewritten(example(*changes), AttendAtOnce())
    assert found.report.count == 1
    x = drawn(rng)
    before, after = (infer(model, x)[0] for model in (found.before, found.after))
    np.testing.assert_allclose(after, oracle(x, scale, normed=normed), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)


def test_what_is_left_are_rows() -> None:
    found = rewritten(example(), AttendAtOnce())
    assert listing(found.after) == GOLDEN
    attended = found.after.graph.node[0]
    assert attended.domain == "com.microsoft"
    told = {each.name: onnx.helper.get_attribute_value(each) for each in attended.attribute}
    assert told == {"num_heads": HEADS, "scale": pytest.approx(0.3)}
    assert rewritten(found.after, AttendAtOnce()).report.sites == ()


def test_half_attention_is_the_witness_to_half_rounding(rng: np.random.Generator) -> None:
    """Behind casts, as the typed graph has them; node by node and in the kernels that the CPU has for it."""
    cast = (
        '  ["attn/Softmax"] share = Softmax<axis = -1>(scores)\n',
        '  ["a"] wide = Cast<to = 1>(scores)\n  ["attn/Softmax"] wide_share = Softmax<axis = -1>(wide)\n'
        '  ["b"] share = Cast<to = 10>(wide_share)\n',
    )
    found = rewritten(example(cast, half=True), AttendAtOnce())
    assert found.report.count == 1
    x = drawn(rng, np.float16)
    truth = oracle(x, float(np.float16(0.3)))
    for model in (found.after, emulate_low(found.after)):
        np.testing.assert_allclose(infer(model, x)[0].astype(np.float64), truth, rtol=2e-3, atol=2e-3)


def test_what_is_no_number_stays_none(rng: np.random.Generator) -> None:
    found = rewritten(example(), AttendAtOnce())
    x = drawn(rng)
    x["q"][1, 2, 0] = np.nan  # of one head
    before, after = (infer(model, x)[0] for model in (found.before, found.after))
    np.testing.assert_array_equal(np.isnan(after), np.isnan(before))
    assert np.isnan(after).sum() == SIZE


MASKED = (
    ("Softmax<axis = -1>(scores)", "Softmax<axis = -1>(masked)"),
    ('  ["attn/Softmax"]', '  ["attn/Mask"] masked = Add(scores, mask)\n  ["attn/Softmax"]'),
)
TURNED_TWICE = (
    ("MatMul(scaled, keys)", "MatMul(scaled, other_keys)"),
    ('  ["attn/MatMul"]', '  ["t"] other_keys = Transpose<perm = [0, 2, 3, 1]>(k_rows)\n  ["attn/MatMul"]'),
)
DOUBLE = (
    ("float[batch, 5, 8]", "double[batch, 5, 8]"),
    ("float[batch, 7, 8]", "double[batch, 7, 8]"),
    ("Mul(q_heads, scale)", "Identity(q_heads)"),
)
OUT = "=> (float[batch, 5, 8] out"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (MASKED, "a mask"),
        (((OUT, f"{OUT}, float[batch, 2, 5, 7] share"),), "others read its shares"),
        (((OUT, f"{OUT}, float[batch, 2, 5, 7] scores"),), "others read its scores"),
        ((("float[batch, 7, 8] k", "float[1, 7, 8] k"),), "unequal batches"),
        (TURNED_TWICE, "no heads that are transposed"),
        ((("Transpose<perm = [0, 2, 1, 3]>(mixed)", "Transpose<perm = [0, 2, 3, 1]>(mixed)"),), "not laid out"),
        (DOUBLE, "no kernel"),
    ],
    ids=lambda case: case.replace(" ", "-") if isinstance(case, str) else "",
)
def test_near_misses_say_why(changes: tuple[tuple[str, str], ...], reason: str) -> None:
    found = rewritten(example(*changes), AttendAtOnce())
    assert found.report.count == 0
    assert reason in found.report.misses[0].reason


def test_a_softmax_of_a_weight_is_no_attention() -> None:
    constant = (("MatMul(scaled, keys)", "MatMul(scaled, weights)"), ("float[batch, 7, 8] k, ", ""))
    drop = tuple((line, "") for line in ATTENTION.splitlines(keepends=True) if "k_rows" in line or "k_heads" in line)
    model = example(*constant, *drop)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((SIZE, 7), np.float32), "weights"))
    found = rewritten(model, AttendAtOnce())
    assert (found.report.count, found.report.misses) == (0, ())
