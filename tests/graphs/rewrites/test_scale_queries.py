"""Attention with the root of its scale on both sides, as torch.onnx writes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from graphs.rewrites.scale_queries import ScaleQueries
from tests.graphs.optimizing import fused_operators, infer, listing, parsed, rewritten

SCORES = """\
g (float[batch, 2, 5, 4] q, float[batch, 2, 5, 4] k) => (float[batch, 2, 5, 5] out) {
  ["b.attn/Mul"] q_s = Mul(q, root)
  ["b.attn/Transpose"] k_t = Transpose<perm = [0, 1, 3, 2]>(k)
  ["b.attn/Mul_1"] k_s = Mul(k_t, root)
  ["b.attn/MatMul"] out = MatMul(q_s, k_s)
}
"""
GOLDEN = """\
b.attn/Transpose: k_t = Transpose(k)
dsr/optimize/b.attn/MatMul.scaled: dsr/optimize/b.attn/MatMul.scaled = Mul(q, dsr/optimize/b.attn/MatMul.scale)
b.attn/MatMul: out = MatMul(dsr/optimize/b.attn/MatMul.scaled, k_t)
"""
ROOT = np.array([0.7], np.float32)


def example(old: str = "", new: str = "", root: np.ndarray = ROOT) -> onnx.ModelProto:
    """A graph in which the rewrite matches; with the changes, one in which it may not."""
    return parsed(SCORES.replace(old, new), {"root": root})


def test_golden_text() -> None:
    assert listing(rewritten(example(), ScaleQueries()).after) == GOLDEN


@pytest.mark.parametrize("root", [ROOT, np.array(0.7, np.float32)], ids=["vector", "scalar"])
def test_the_scores_are_the_same(root: np.ndarray, rng: np.random.Generator) -> None:
    found = rewritten(example(root=root), ScaleQueries())
    assert found.report.count == 1
    q, k = rng.standard_normal((2, 3, 2, 5, 4)).astype(np.float32)
    got = infer(found.after, {"q": q, "k": k})[0]
    np.testing.assert_allclose(got, 0.49 * q @ k.swapaxes(-2, -1), rtol=0, atol=1e-5)


def test_onnxruntime_reads_the_keys_in_place(tmp_path: Path) -> None:
    after = rewritten(example(), ScaleQueries()).after
    assert fused_operators(after, str(tmp_path / "after.onnx")) == ["FusedMatMul"]


def test_a_factor_of_each_channel_is_left_alone() -> None:
    found = rewritten(
        example(root=np.full(5, 0.7, np.float32), old="q_s = Mul(q, root)", new="q_s = Neg(q)"), ScaleQueries()
    )
    assert (found.report.count, found.report.misses) == (0, ())
    assert listing(found.after) == listing(found.before)


def test_keys_alone_have_nothing_to_join_and_the_report_says_so() -> None:
    found = rewritten(example("q_s = Mul(q, root)", "q_s = Neg(q)"), ScaleQueries())
    assert [miss.reason for miss in found.report.misses] == ["its queries have no scale to join that of its keys"]
    assert listing(found.after) == listing(found.before)
