"""A product for each part of what a Split would copy."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from graphs.rewrites.runtime.part_products import PartProducts
from tests.graphs.optimizing import Array, fused_operators, infer, listing, parsed, rewritten

PARTED = """\
g (float[batch, 5, 4] x) => (float[batch, 5, 3] a, float[batch, 5, 2] b, float[batch, 5, 1] out) {
  ["qkv/MatMul"] product = MatMul(x, weight)
  ["qkv/Add"] whole = Add(product, bias)
  ["attn/Split"] a, b, c = Split<axis = -1>(whole, widths)
  ["attn/Neg"] out = Neg(c)
}
"""
GOLDEN = """\
dsr/runtime/qkv/Split.weights: {w}, {w}#1, {w}#2 = Split(weight, dsr/runtime/qkv/Split.widths)
dsr/runtime/qkv/Split.part_0: {p}_0 = MatMul(x, {w})
dsr/runtime/qkv/Split.part_1: {p}_1 = MatMul(x, {w}#1)
dsr/runtime/qkv/Split.part_2: {p}_2 = MatMul(x, {w}#2)
dsr/runtime/qkv/Split.biased_0: a = Add({p}_0, dsr/runtime/qkv/Split.bias_0)
dsr/runtime/qkv/Split.biased_1: b = Add({p}_1, dsr/runtime/qkv/Split.bias_1)
dsr/runtime/qkv/Split.biased_2: c = Add({p}_2, dsr/runtime/qkv/Split.bias_2)
attn/Neg: out = Neg(c)
"""
PLAIN = (('  ["qkv/Add"] whole = Add(product, bias)\n', ""), ("Split<axis = -1>(whole", "Split<axis = -1>(product"))


def example(*changes: tuple[str, str]) -> onnx.ModelProto:
    """A graph in which the rewrite matches; with the changes, one in which it may not."""
    rng = np.random.default_rng(5)
    kind = np.float16 if any("float16" in new for _, new in changes) else np.float32
    text, arrays = PARTED, {"weight": rng.standard_normal((4, 6)).astype(kind)}
    arrays |= {"bias": rng.standard_normal(6).astype(kind), "widths": np.array([3, 2, 1])}
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return parsed(text, arrays)


def constants(model: onnx.ModelProto) -> dict[str, Array]:
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize("changes", [(), PLAIN], ids=["bias", "plain"])
def test_the_parts_are_the_same_to_rounding(changes: tuple[tuple[str, str], ...], rng: np.random.Generator) -> None:
    found = rewritten(example(*changes), PartProducts())
    assert found.report.count == 1
    x, known = rng.standard_normal((3, 5, 4)).astype(np.float32), constants(found.before)
    truth = x.astype(np.float64) @ known["weight"] + (0 if changes else known["bias"])
    a, b, out = infer(found.after, {"x": x})
    np.testing.assert_allclose(np.concatenate([a, b, -out], axis=-1), truth, rtol=1e-5, atol=1e-5)
    for before, after in zip(infer(found.before, {"x": x}), (a, b, out), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)


def test_the_weight_stays_one_tensor_of_the_file(tmp_path: object) -> None:
    found = rewritten(example(), PartProducts())
    stem = "dsr/runtime/qkv/Split"
    assert sorted(listing(found.after).splitlines()) == sorted(
        GOLDEN.format(w=f"{stem}.weights", p=f"{stem}.part").splitlines()
    )
    np.testing.assert_array_equal(constants(found.after)["weight"], constants(found.before)["weight"])
    assert rewritten(found.after, PartProducts()).report.sites == ()


def test_onnx_runtime_cuts_it_when_it_opens_the_model(tmp_path: object) -> None:
    after = rewritten(example(), PartProducts()).after
    assert "Split" not in fused_operators(after, f"{tmp_path}/opened.onnx")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ((("=> (", "=> (float[batch, 5, 6] whole, "),), "others read"),
        ((("=> (", "=> (float[batch, 5, 6] product, "),), "others read"),
        ((("float[", "float16["),), "does not compute in"),
        ((("[batch, 5, ", "[5, "),), "channels of tokens"),
    ],
)
def test_near_misses_say_why(changes: tuple[tuple[str, str], ...], reason: str) -> None:
    found = rewritten(example(*changes), PartProducts())
    assert found.report.count == 0
    assert reason in found.report.misses[0].reason


def test_a_product_of_activations_is_no_candidate() -> None:
    model = example(("float[batch, 5, 4] x)", "float[batch, 5, 4] x, float[4, 6] w)"), ("(x, weight)", "(x, w)"))
    assert (rewritten(model, PartProducts()).report.count, rewritten(model, PartProducts()).report.misses) == (0, ())
