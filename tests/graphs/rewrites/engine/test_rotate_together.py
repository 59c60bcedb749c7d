"""q, k and v rotated and laid out as one tensor."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest

from graphs.rewrites.engine.rotate_together import RotateTogether
from tests.graphs.optimizing import infer, parsed, rewritten

N, HEADS, SIZE = 5, 2, 6
WIDTH = HEADS * SIZE
PATH = """\
  ["attn/Reshape_{r}"] {r}_rows = Reshape({r}, heads)
  ["attn/Transpose_{r}"] {r}_heads = Transpose<perm = [0, 2, 1, 3]>({r}_rows)
"""
PAIRS = """\
  ["rope/Pairs_{r}"] {r}_pairs = Reshape({r}_heads, paired)
  ["rope/Split_{r}"] {r}_even, {r}_odd = Split<axis = 4, num_outputs = 2>({r}_pairs)
  ["rope/Concat_{r}"] {r}_stack = Concat<axis = -1>({r}_odd, {r}_even)
  ["rope/Swapped_{r}"] {r}_swapped = Reshape({r}_stack, flat)
"""
HALVES = """\
  ["rope/First_{r}"] {r}_first = Slice({r}_heads, zero, half, last)
  ["rope/Second_{r}"] {r}_second = Slice({r}_heads, half, all, last)
  ["rope/Neg_{r}"] {r}_minus = Neg({r}_second)
  ["rope/Concat_{r}"] {r}_swapped = Concat<axis = -1>({r}_minus, {r}_first)
"""
TURN = """\
  ["rope/Cos_{r}"] {r}_a = Mul({r}_heads, cos)
  ["rope/Sin_{r}"] {r}_b = Mul({r}_swapped, sin)
  ["rope/Add_{r}"] {r}_turned = Add({r}_a, {r}_b)
"""
PROJECTION = """\
g (float[batch, 5, 8] x) => (float[batch, 2, 5, 6] out) {
  ["attn.qkv/MatMul"] product = MatMul(x, weight)
  ["attn.qkv/Add"] whole = Add(product, bias)
  ["attn/Split"] q, k, v = Split<axis = -1, num_outputs = 3>(whole)
"""
ATTENTION = """\
  ["attn/Mul"] scaled = Mul({q}, scale)
  ["attn/Keys"] keys = Transpose<perm = [0, 1, 3, 2]>({k})
  ["attn/MatMul"] scores = MatMul(scaled, keys)
  ["attn/Softmax"] share = Softmax<axis = -1>(scores)
  ["attn/MatMul_1"] out = MatMul(share, v_heads)
}}
"""


def example(
    *changes: tuple[str, str],
    swap: str = "pairs",
    given: Mapping[str, np.ndarray] | None = None,
    half: bool = False,
) -> onnx.ModelProto:
    """A graph in which the rewrite matches; with the changes, one in which it may not. `swap` "none" is no rotation;
    `given` are constants to have in place of the usual ones."""
    rng = np.random.default_rng(3)
    angles = np.outer(np.arange(N), 1 / np.arange(1, SIZE // 2 + 1)).astype(np.float32)
    angles = angles.repeat(2, axis=1) if swap == "pairs" else np.concatenate([angles, angles], axis=1)
    signs = np.where(np.arange(SIZE) % 2, 1, -1) if swap == "pairs" else 1
    arrays = {"cos": np.cos(angles), "sin": (np.sin(angles) * signs).astype(np.float32)}
    arrays |= {"weight": rng.standard_normal((8, 3 * WIDTH)), "bias": rng.standard_normal(3 * WIDTH)}
    arrays |= {"scale": np.array([SIZE**-0.5]), "zero": np.array([0]), "half": np.array([SIZE // 2])}
    arrays |= {"all": np.array([SIZE]), "last": np.array([-1]), "heads": np.array([-1, N, HEADS, SIZE])}
    arrays |= {"paired": np.array([-1, HEADS, N, SIZE // 2, 2]), "flat": np.array([-1, HEADS, N, SIZE])}
    arrays |= given or {}
    kind = np.float16 if half else np.float32
    arrays = {name: a.astype(kind) if a.dtype.kind == "f" else a for name, a in arrays.items()}
    rotation = {"pairs": PAIRS + TURN, "halves": HALVES + TURN, "none": ""}[swap]
    text = PROJECTION + "".join(PATH.format(r=r) for r in "qkv") + "".join(rotation.format(r=r) for r in "qk")
    ends = {r: f"{r}_turned" if rotation else f"{r}_heads" for r in "qk"}
    text += ATTENTION.format(**ends)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return parsed(text.replace("float[", "float16[") if half else text, arrays)


NO_BIAS = (('  ["attn.qkv/Add"] whole = Add(product, bias)\n', ""), ("(whole)", "(product)"))


OUTSIDE = (
    ("=> (float[batch, 2, 5, 6] out)", "=> (float[batch, 2, 5, 6] out, float[batch, 5, 36] spare)"),
    ('  ["attn/Split"]', '  ["other/Neg"] spare = Neg(whole)\n  ["attn/Split"]'),
)


@pytest.mark.parametrize("swap", ["pairs", "halves", "none"])
@pytest.mark.parametrize("changes", [(), NO_BIAS], ids=["bias", "plain"])
def test_attention_is_the_same_to_rounding(
    swap: str, changes: tuple[tuple[str, str], ...], rng: np.random.Generator
) -> None:
    found = rewritten(example(*changes, swap=swap), RotateTogether())
    assert found.report.count == 1
    x = rng.standard_normal((3, N, 8)).astype(np.float32)
    before, after = (infer(each, {"x": x}, optimized=False)[0] for each in (found.before, found.after))
    np.testing.assert_allclose(after, before, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("swap", ["pairs", "halves"])
def test_one_rotation_takes_the_place_of_two(swap: str) -> None:
    def count(model: onnx.ModelProto, op: str) -> int:
        return sum(node.op_type == op for node in model.graph.node)

    found = rewritten(example(swap=swap), RotateTogether())
    assert count(found.before, "Mul") == 5
    assert count(found.after, "Mul") == 2  # cosines and sines; the scale is in them


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ((("= Mul(q_heads, cos)", "= Mul(q_heads, q_heads)"),), "what is done to q"),
        ((("= Mul(k_swapped, sin)", "= Mul(k_heads, sin)"),), "what is done to k"),
        (
            (("v_rows = Reshape(v, heads)", 'v_flat = Neg(v)\n  ["n"] v_rows = Reshape(v_flat, heads)'),),
            "what is done to v",
        ),
        (OUTSIDE, "others read"),
    ],
)
def test_near_misses_say_why(changes: tuple[tuple[str, str], ...], reason: str) -> None:
    found = rewritten(example(*changes), RotateTogether())
    assert found.report.count == 0
    assert reason in found.report.misses[0].reason


ALL_TURN = (
    (
        '  ["attn/Mul"]',
        "".join(each.format(r="v") for each in (PAIRS, TURN)) + '  ["attn/Mul"]',
    ),
    ("MatMul(share, v_heads)", "MatMul(share, v_turned)"),
)


def test_tables_of_ones_are_none(rng: np.random.Generator) -> None:
    ones = np.ones((N, SIZE))
    found = rewritten(example(*ALL_TURN, given={"cos": ones, "sin": ones, "scale": np.ones(1)}), RotateTogether())
    assert found.report.count == 1
    x = rng.standard_normal((3, N, 8)).astype(np.float32)
    before, after = (infer(each, {"x": x}, optimized=False)[0] for each in (found.before, found.after))
    np.testing.assert_allclose(after, before, rtol=2e-5, atol=2e-6)


def test_pairs_of_neighbouring_tokens_are_none_of_a_head() -> None:
    """Heads of three channels: every other pair has one channel of each of two tokens."""
    given = {"heads": np.array([-1, 4, 3, 3]), "paired": np.array([-1, 3, 6, 2]), "flat": np.array([-1, 3, 4, 3])}
    given |= {"weight": np.ones((8, 27)), "bias": np.ones(27), "cos": np.ones((4, 3)), "sin": np.ones((4, 3))}
    changes = (("float[batch, 5, 8] x", "float[batch, 4, 8] x"), ("float[batch, 2, 5, 6]", "float[batch, 3, 4, 3]"))
    found = rewritten(example(*changes, ("axis = 4", "axis = 3"), given=given), RotateTogether())
    assert found.report.count == 0


@pytest.mark.parametrize(("scale", "table"), [(1e-6, 1.0), (1e4, 50.0)])
def test_a_scale_that_a_table_cannot_take_in_stays_a_product(scale: float, table: float) -> None:
    given = {"scale": np.array([scale]), "cos": np.full((N, SIZE), table)}
    found = rewritten(example(given=given, half=True), RotateTogether())
    assert found.report.count == 0
    assert "than its type holds" in found.report.misses[0].reason
    assert rewritten(example(half=True), RotateTogether()).report.count == 1
