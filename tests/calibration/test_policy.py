"""Which GEMMs become INT8: inner ones, wide enough, of many rows, in no module that must stay in FP32."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from calibration.policy import Selection, select
from graphs.files import load_inferred_graph
from tests.calibration.small_graph import TOKENS, WIDTH, small_graph


def _names(found: Selection) -> tuple[list[str], list[str]]:
    return [gemm.name for gemm in found.integer], [gemm.name for gemm in found.conditions]


def test_inner_gemms_become_int8_and_those_of_conditions_are_apart(tmp_path: Path) -> None:
    """Left out: the embedder and the head, both that are narrower than 16."""
    found = select(small_graph(tmp_path), ())
    assert _names(found) == (["attn.q", "attn.k"], ["time.first", "time.second"])
    assert [gemm.name for gemm in found.all] == ["attn.q", "attn.k", "time.first", "time.second"]


def test_all_weight_gemms_of_one_sample_count_into_the_flops(tmp_path: Path) -> None:
    rows = TOKENS * (4 * WIDTH * WIDTH + 2 * 8 * WIDTH) + 2 * WIDTH * WIDTH
    assert select(small_graph(tmp_path), ()).total_flops == 2 * rows


@pytest.mark.parametrize(
    ("kept", "integer"),
    [("attn", []), ("attn.q", ["attn.k"]), ("att", ["attn.q", "attn.k"]), ("attn.q.x", ["attn.q", "attn.k"])],
)
def test_a_module_that_stays_in_fp32_keeps_its_gemms(kept: str, integer: list[str], tmp_path: Path) -> None:
    """By whole path elements: `att` is no part of `attn`."""
    assert _names(select(small_graph(tmp_path), (kept,)))[0] == integer


MODULATED = """<ir_version: 10, opset_import: ["": 20]>
g (float[N,16,32] x, float[N,32] c) => (float[N,16,32] out)
<float[32,32] a = {VALUES}, float[32,32] b = {VALUES}, float[32,32] own = {VALUES}, float[32,32] q = {VALUES}> {
  h = MatMul(x, q)
  first = MatMul(c, a)
  other = Sigmoid(c)
  mine = MatMul(other, own)
  last = MatMul(c, b)
  one = Add(first, last)
  two = Add(one, mine)
  axis = Constant<value_ints = [1]>()
  row = Unsqueeze(two, axis)
  out = Mul(h, row)
}"""
NAMES = ("in.q/MatMul", "block.ada/MatMul", "act/Sigmoid", "final.own/MatMul", "final.ada/MatMul")


@pytest.mark.parametrize(
    ("kept", "outer", "conditions"),
    [
        ((), ("final",), ["block.ada", "final.ada"]),
        (("final",), (), ["block.ada"]),
        (("final.ada",), ("final",), ["block.ada"]),
        ((), ("final", "block"), []),
        ((), (), ["block.ada", "final.own", "final.ada"]),
    ],
)
def test_the_modulation_of_an_outer_module_goes_with_those_that_read_the_same(
    kept: tuple[str, ...], outer: tuple[str, ...], conditions: list[str], tmp_path: Path
) -> None:
    """They are one GEMM: alone it stays as it is, and where it must stay in FP32 it does."""
    model = onnx.parser.parse_model(MODULATED.replace("VALUES", ", ".join(["0.5"] * 1024)))
    for node, name in zip(model.graph.node, NAMES, strict=False):
        node.name = name
    onnx.save(model, tmp_path / "m.onnx")
    assert _names(select(load_inferred_graph(tmp_path / "m.onnx"), kept, outer))[1] == conditions
