"""`k.transpose(-2, -1)` with open leading axes, as torch.onnx writes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from graphs.rewrites.transpose_keys import TransposeKeys
from tests.graphs.optimizing import fused_operators, infer, listing, parsed, rewritten

SCORES = """\
g (float[batch, 2, 5, 4] q, float[batch, 2, 5, 4] k) => (float[batch, 2, 5, 5] out) {
  ["b.attn/Reshape"] flat = Reshape(k, merged)
  ["b.attn/Transpose"] flat_t = Transpose<perm = [0, 2, 1]>(flat)
  ["b.attn/Reshape_1"] k_t = Reshape(flat_t, restored)
  ["b.attn/MatMul"] out = MatMul(q, k_t)
}
"""
GOLDEN = """\
dsr/optimize/b.attn/Reshape_1.swapped: dsr/optimize/b.attn/Reshape_1.swapped = Transpose(k)
b.attn/MatMul: out = MatMul(q, dsr/optimize/b.attn/Reshape_1.swapped)
"""


def example(old: str = "", new: str = "", **arrays: list[int]) -> onnx.ModelProto:
    """A graph in which the rewrite matches; with the changes, one in which it may not."""
    shapes = {"merged": [-1, 5, 4], "restored": [-1, 2, 4, 5]} | arrays
    return parsed(SCORES.replace(old, new), {name: np.array(shape) for name, shape in shapes.items()})


def test_golden_text() -> None:
    after = rewritten(example(), TransposeKeys()).after
    assert listing(after) == GOLDEN
    assert list(after.graph.node[0].attribute[0].ints) == [0, 1, 3, 2]


def test_the_scores_are_the_same(rng: np.random.Generator) -> None:
    found = rewritten(example(), TransposeKeys())
    q, k = rng.standard_normal((2, 3, 2, 5, 4)).astype(np.float32)
    for model in (found.before, found.after):
        got = infer(model, {"q": q, "k": k})[0]
        np.testing.assert_allclose(got, q @ k.swapaxes(-2, -1), rtol=0, atol=1e-5)


def test_onnxruntime_reads_the_keys_in_place(tmp_path: Path) -> None:
    after = rewritten(example(), TransposeKeys()).after
    assert fused_operators(after, str(tmp_path / "after.onnx")) == ["FusedMatMul"]


@pytest.mark.parametrize(
    ("merged", "restored", "reason"),
    [
        ([-1, 5, 4], [2, -1, 4, 5], "its last Reshape does not restore the leading axes"),
        ([-1, 5, 2], [-1, 2, 4, 5], "its first Reshape merges other than the leading axes"),
    ],
)
def test_other_reshapes_are_left_alone_and_the_report_says_why(
    merged: list[int], restored: list[int], reason: str
) -> None:
    found = rewritten(example("[batch, 2, 5, 5]", "[c, d, 5, 5]", merged=merged, restored=restored), TransposeKeys())
    assert [miss.reason for miss in found.report.misses] == [reason]
    assert listing(found.after) == listing(found.before)
