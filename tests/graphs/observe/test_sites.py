"""Sites: which block a tensor leads to, and which tensors are worth comparing."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from graphs.observe import sites as module
from graphs.observe.sites import Site, find_sites

TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
model (float[batch,4,8] x, float[batch,8] c) => (float[batch,4,8] out)
<float[8,8] w = {W}, float[1,4,8] table = {T}, int64[1] one = {1}>
{
  embedded = MatMul(x, w)
  placed = Add(embedded, table)
  later = MatMul(c, w)
  column = Unsqueeze(later, one)
  a0 = MatMul(placed, w)
  r0 = Mul(a0, table)
  b0 = Add(placed, r0)
  norms = ReduceL2(b0)
  replaced = Mul(b0, norms)
  a1 = MatMul(replaced, w)
  r1 = Mul(a1, table)
  gated = Mul(r1, column)
  b1 = Add(replaced, gated)
  head = MatMul(b1, w)
  out = Identity(head)
}
"""
NAMES = {
    "embedded": "x_embedder/MatMul",
    "placed": "root/Add",
    "later": "blocks.1.modulation/MatMul",
    "column": "blocks.1/Unsqueeze",
    "a0": "blocks.0.attn.qkv/MatMul",
    "r0": "rope/Mul",
    "b0": "blocks.0/Add",
    "norms": "dsr/lower/replacements.0/norms",
    "replaced": "dsr/lower/replacements.0/out",
    "a1": "blocks.1.attn.qkv/MatMul",
    "r1": "rope/Mul_1",
    "gated": "blocks.1/Mul",
    "b1": "blocks.1/Add",
    "head": "head.linear/MatMul",
    "out": "root/Identity",
}


@pytest.fixture
def sites(tmp_path: Path) -> dict[str, Site]:
    text = TEXT.replace("{W}", "{" + ",".join(["0.5"] * 64) + "}").replace("{T}", "{" + ",".join(["0.5"] * 32) + "}")
    model = onnx.parser.parse_model(text)
    for node in model.graph.node:
        node.name = NAMES[node.output[0]]
    onnx.save(model, tmp_path / "model.onnx")
    return {site.tensor: site for site in find_sites(tmp_path / "model.onnx")}


def test_outer_sites_are_what_leaves_each_group(sites: dict[str, Site]) -> None:
    outer = {site.group: tensor for tensor, site in sites.items() if site.outer}
    assert outer == {
        "x_embedder": "embedded",
        "root": "placed",
        "blocks.0": "replaced",
        "blocks.1": "b1",
        "head": "head",
        "output": "out",
    }


def test_a_replacement_belongs_to_the_block_whose_tokens_it_changes(sites: dict[str, Site]) -> None:
    assert (sites["replaced"].group, sites["replaced"].module) == ("blocks.0", "replacements.0")


def test_what_is_shared_goes_where_it_is_used(sites: dict[str, Site]) -> None:
    assert (sites["r0"].group, sites["r1"].group) == ("blocks.0", "blocks.1")
    assert sites["r1"].module == "rope"


def test_modulation_belongs_to_its_block_although_it_comes_first(sites: dict[str, Site]) -> None:
    assert sites["later"].group == sites["column"].group == "blocks.1"
    order = list(sites)
    assert order.index("later") < order.index("b0")


def test_of_too_many_inner_sites_an_even_choice_is_kept(
    sites: dict[str, Site], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outer = [name for name, site in sites.items() if site.outer]
    monkeypatch.setattr(module, "MOST_SITES", len(outer) + 3)
    kept = [site.tensor for site in find_sites(tmp_path / "model.onnx")]
    assert len(kept) == len(outer) + 3
    assert set(outer) <= set(kept)
    assert kept == [name for name in sites if name in set(kept)]
    monkeypatch.setattr(module, "MOST_SITES", 1)
    assert [site.tensor for site in find_sites(tmp_path / "model.onnx")] == outer
