"""Attention's codes, projected in the order in which attention writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from dsr_export.backends.tensorrt.build import build_engine
from dsr_export.config import BatchRange
from graphs.rewrites.engine.project_tokens_first import ProjectTokensFirst
from graphs.targets import target
from tests.backends.tiny_models import specs
from tests.graphs.optimizing import infer, parsed, rewritten

HEADS, TOKENS, HEAD = 2, 16, 32
WIDTH = HEADS * HEAD
SHAPE = f"float[batch, {TOKENS}, {WIDTH}]"
PROJECTED = f"""\
g ({SHAPE} x) => ({SHAPE} out) {{
  ["attn/Cast"] half = Cast<to = 10>(x)
  ["attn/Reshape"] apart = Reshape(half, heads)
  ["attn/Transpose"] q = Transpose<perm = [0, 2, 1, 3]>(apart)
  ["attn/Transpose_1"] k = Transpose<perm = [0, 2, 3, 1]>(apart)
  ["attn/MatMul"] scores = MatMul(q, k)
  ["attn/Softmax"] open = Softmax<axis = -1>(scores)
  ["attn/MatMul_1"] made = MatMul(open, q)
  ["attn/Transpose_2"] turned = Transpose<perm = [0, 2, 1, 3]>(made)
  ["attn/Reshape_1"] rows = Reshape(turned, whole)
  ["type/cast"] wide = Cast<to = 1>(rows)
  ["proj/codes"] codes = QuantizeLinear(wide, step, zero)
  ["proj/values"] values = DequantizeLinear(codes, small, zero)
  ["proj/weight"] weight = DequantizeLinear<axis = 1>(stored, steps, zeros)
  ["proj/MatMul"] product = MatMul(values, weight)
  ["proj/Add"] sum = Add(product, bias)
  ["out/Cast"] out = Cast<to = 1>(sum)
}}
"""
CODED = (
    '["proj/Add"] sum = Add(product, bias)',
    """["type/cast_1"] single = Cast<to = 1>(product)
  ["proj/product_codes"] own = QuantizeLinear(single, one, zero)
  ["proj/product"] even = DequantizeLinear(own, half_one, zero)
  ["proj/product_back"] sized = Mul(even, sizes)
  ["proj/Add"] sum = Add(sized, bias)""",
)


def example(*changes: tuple[str, str]) -> onnx.ModelProto:
    text = PROJECTED
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    rng = np.random.default_rng(0)
    arrays = {
        "heads": np.array([0, 0, HEADS, HEAD]),
        "whole": np.array([0, 0, WIDTH]),
        "step": np.array(2**-5, np.float32),
        "small": np.array(2**-5, np.float16),
        "zero": np.array(0, np.int8),
        "stored": rng.integers(-127, 128, (WIDTH, WIDTH)).astype(np.int8),
        "steps": np.full(WIDTH, 2**-9, np.float16),
        "zeros": np.zeros(WIDTH, np.int8),
        "bias": rng.standard_normal(WIDTH).astype(np.float16),
        "one": np.ones(1, np.float32),
        "half_one": np.ones(1, np.float16),
        "sizes": np.linspace(0.5, 2, WIDTH).astype(np.float16),
    }
    used = {name: array for name, array in arrays.items() if name in text}
    return parsed(text, used)


def _x(rng: np.random.Generator, batch: int = 3) -> np.ndarray:
    return rng.standard_normal((batch, TOKENS, WIDTH)).astype(np.float32)


@pytest.mark.parametrize("changes", [(), (CODED,)], ids=["", "codes of the product"])
@pytest.mark.parametrize("batch", [1, 3])
def test_numbers_are_the_same(changes: tuple[tuple[str, str], ...], batch: int, rng: np.random.Generator) -> None:
    found = rewritten(example(*changes), ProjectTokensFirst())
    assert found.report.count == 1
    x = _x(rng, batch)
    x[0, 3] = 40  # beyond the range of codes
    before, after = (infer(each, {"x": x}, optimized=False)[0] for each in (found.before, found.after))
    np.testing.assert_allclose(after, before, rtol=2**-9, atol=2**-9 * np.abs(before).max())


def test_the_product_keeps_its_name_and_may_be_an_output(rng: np.random.Generator) -> None:
    shown = (f"=> ({SHAPE} out)", f"=> ({SHAPE} out, float16[batch, {TOKENS}, {WIDTH}] product)")
    found = rewritten(example(shown), ProjectTokensFirst())
    assert found.report.count == 1
    x = _x(rng)
    before, after = (infer(each, {"x": x}, optimized=False)[1] for each in (found.before, found.after))
    np.testing.assert_allclose(after, before, rtol=2**-9, atol=2**-9 * np.abs(before).max())


def test_codes_of_the_product_stand_right_behind_it() -> None:
    """Its GEMM writes them, if nothing lies in between."""
    after = rewritten(example(CODED), ProjectTokensFirst()).after
    readers = {
        node.name: [each.op_type for each in after.graph.node if node.output[0] in each.input]
        for node in after.graph.node
    }
    assert readers["proj/MatMul"] == ["Cast"] and readers["type/cast_1"] == ["QuantizeLinear"]
    assert readers["proj/product"] == ["Transpose"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            (
                (
                    '["attn/Transpose_2"] turned = Transpose<perm = [0, 2, 1, 3]>(made)',
                    '["t"] turned = Transpose<perm = [0, 2, 3, 1]>(made)',
                ),
            ),
            "put together otherwise",
        ),
        (
            (
                ('["out/Cast"] out', '["other/Cast"] spare = Cast<to = 1>(codes)\n  ["out/Cast"] out'),
                (f"=> ({SHAPE} out)", f"=> ({SHAPE} out, {SHAPE} spare)"),
            ),
            "others read its codes",
        ),
        (
            (
                ('["out/Cast"] out', '["other/Neg"] spare = Neg(wide)\n  ["out/Cast"] out'),
                (f"=> ({SHAPE} out)", f"=> ({SHAPE} out, {SHAPE} spare)"),
            ),
            "others read its codes",
        ),
        (((f"float[batch, {TOKENS}, {WIDTH}]", f"float[batch, tokens, {WIDTH}]"),), "no fixed number"),
    ],
)
def test_near_misses_say_why(changes: tuple[tuple[str, str], ...], reason: str) -> None:
    found = rewritten(example(*changes), ProjectTokensFirst())
    assert found.report.count == 0
    assert reason in found.report.misses[0].reason


def test_what_attention_does_not_make_is_no_candidate() -> None:
    found = rewritten(example(("Softmax<axis = -1>(scores)", "Relu(scores)")), ProjectTokensFirst())
    assert (found.report.count, found.report.misses) == (0, ())


def test_an_engine_copies_no_codes(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the rtx extra")
    found, launches = rewritten(example(), ProjectTokensFirst()), []
    for i, model in enumerate((found.before, found.after)):
        path = tmp_path / f"{i}.onnx"
        onnx.save(model, path)
        facts = build_engine(path, target("rtx"), batch=BatchRange(2, 2, 2), inputs=specs(path)).facts
        assert facts["schedule"]["attention"]["fused"] == 1
        (gemm,) = [each for each in facts["schedule"]["launches"] if each["kind"] == "gemm"]
        assert gemm["computes"] == "int8"
        launches.append(len(facts["schedule"]["launches"]))
    assert launches[1] == launches[0] - 1
