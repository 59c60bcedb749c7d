"""Names of nodes are made and taken apart in one place."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import onnx_graphsurgeon as gs
import pytest

from graphs import names
from graphs.builders import NodeBuilder
from graphs.names import (
    MadeName,
    changed_name,
    is_lowered,
    is_made,
    made_name,
    made_parts,
    module_of,
    own_name,
    site_of,
)

ROOT = Path(names.__file__).parent.parent


@pytest.mark.parametrize(
    ("node", "module", "site", "own"),
    [
        ("blocks.3.attn/MatMul_2", "blocks.3.attn", "blocks.3.attn", "MatMul_2"),
        ("dsr/lower/blocks.3/topk", "blocks.3", "blocks.3", "topk"),
        ("dsr/optimize/a/b/Add.sum", "a/b", "a/b", "Add.sum"),
        ("root/Add", "root", "root", "Add"),
        ("Add", "root", "Add", "Add"),
        ("dsr/own", "root", "dsr", "own"),
    ],
)
def test_the_module_is_in_the_node_name(node: str, module: str, site: str, own: str) -> None:
    named = gs.Node("Add", node)
    assert (module_of(node), site_of(named), own_name(named)) == (module, site, own)


@pytest.mark.parametrize(
    "parts",
    [MadeName("lower", "blocks.3", "out"), MadeName("lower", "a/b", "out", 12), MadeName("tap-before", "x", "norms")],
)
def test_what_is_made_is_read(parts: MadeName) -> None:
    name = made_name(parts.stage, parts.site, parts.role, parts.count)
    assert made_parts(name) == parts
    assert is_made(name) and is_made(name, parts.stage) and not is_made(name, "low")
    assert is_lowered(name) == (parts.stage == "lower")
    assert module_of(name) == parts.site


@pytest.mark.parametrize("name", ["blocks.3/MatMul", "dsr/lower/out", "dsrx/lower/a/out", ""])
def test_other_names_are_none_of_ours(name: str) -> None:
    assert made_parts(name) is None


def test_a_builder_numbers_the_roles_of_a_site() -> None:
    graph = gs.Graph()
    build = NodeBuilder(graph, "lower", "blocks.0")
    for _ in range(3):
        build.op("Relu", [gs.Variable("x")], "out")
    assert [node.name for node in graph.nodes] == [f"dsr/lower/blocks.0/out{end}" for end in ("", "_2", "_3")]
    assert [made_parts(node.name).count for node in graph.nodes] == [1, 2, 3]  # type: ignore[union-attr]


def test_what_replaces_a_constant_is_named_by_its_reader() -> None:
    assert changed_name("pad", "blocks.0.w12/MatMul") == "dsr/pad/blocks.0.w12/MatMul"
    assert changed_name("smooth", "blocks.0.w12/MatMul", 1) == "dsr/smooth/blocks.0.w12/MatMul/1"


def test_no_other_module_spells_a_name() -> None:
    """Strings that begin as our names do; documentation may show them."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for package in ("dsr_export", "graphs", "calibration")
        for path in sorted((ROOT / package).rglob("*.py"))
        if "dsr/" in (text := path.read_text(encoding="utf-8"))
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.match(r"\W*dsr/", node.value)
    ]
    assert found == []
