"""The engine: counts, near misses and reports."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from graphs.builders import NodeBuilder, replace_output
from graphs.errors import ExportError
from graphs.rewrite import Match, Miss, Rewrite, run, run_first


@dataclass(frozen=True)
class AbsOfPositive:
    """Abs(x) -> Identity(x) where the node is marked positive; any other Abs is a near miss."""

    name: str = "abs_of_positive"

    def match(self, node: gs.Node) -> Match | Miss | None:
        if node.op != "Abs":
            return None
        return Match(node) if "positive" in node.name else Miss("not known to be positive", node.name)

    def apply(self, graph: gs.Graph, match: Match) -> None:
        build = NodeBuilder(graph, "test", match.node.name)
        out = build.op("Identity", [match.node.inputs[0]], "same")
        replace_output(match.node, out, graph)


def _graph() -> gs.Graph:
    x = gs.Variable("x", np.float32, (1,))
    a, b = gs.Variable("a"), gs.Variable("out", np.float32, (1,))
    nodes = [
        gs.Node("Abs", "positive/Abs", inputs=[x], outputs=[a]),
        gs.Node("Abs", "other/Abs", inputs=[a], outputs=[b]),
    ]
    return gs.Graph(nodes=nodes, inputs=[x], outputs=[b], opset=20)


def test_a_match_is_applied_and_a_miss_is_reported() -> None:
    graph = _graph()
    report = run(graph, AbsOfPositive(), expected=1)
    assert [node.op for node in graph.nodes] == ["Identity", "Abs"]
    assert report.sites == ("positive/Abs",)
    assert report.misses == (Miss("not known to be positive", "other/Abs"),)
    assert (report.nodes_before, report.nodes_after) == (2, 2)
    assert report.as_dict()["operators"] == {"Abs": -1, "Identity": 1}
    assert graph.nodes[0].name == "dsr/test/positive/Abs/same"


def test_another_count_than_declared_names_sites_and_near_misses_and_changes_nothing() -> None:
    graph = _graph()
    with pytest.raises(ExportError, match="1 sites found where 2 are declared.*other/Abs: not known to be positive"):
        run(graph, AbsOfPositive(), expected=2)
    assert [node.op for node in graph.nodes] == ["Abs", "Abs"]


@dataclass(frozen=True)
class AnyAbs(AbsOfPositive):
    """Abs(x) -> Identity(x) in good faith, unless the node is marked strict."""

    name: str = "any_abs"

    def match(self, node: gs.Node) -> Match | Miss | None:
        found = super().match(node)
        return found if not isinstance(found, Miss) else Miss("strict", node.name) if self.strict else Match(node)

    strict: bool = False


def test_a_node_takes_the_first_rewrite_that_matches_it() -> None:
    graph = _graph()
    reports = run_first(graph, (AbsOfPositive(), AnyAbs()), expected=2)
    assert [(report.name, report.sites) for report in reports] == [
        ("abs_of_positive", ("positive/Abs",)),
        ("any_abs", ("other/Abs",)),
    ]
    assert [node.op for node in graph.nodes] == ["Identity", "Identity"]


def test_later_rewrites_rest_where_the_first_missed_nothing() -> None:
    graph = _graph()
    graph.nodes[1].name = "positive/Abs_1"
    assert [report.name for report in run_first(graph, (AbsOfPositive(), AnyAbs()), expected=2)] == ["abs_of_positive"]


def test_a_node_that_every_rewrite_missed_is_named_with_every_reason() -> None:
    rewrites: tuple[Rewrite, ...] = (AbsOfPositive(), AnyAbs(strict=True))
    missed = "other/Abs: not known to be positive; other/Abs: strict"
    with pytest.raises(ExportError, match=rf"abs_of_positive / any_abs: 1 sites found where 2 .*misses: {missed}\)"):
        run_first(_graph(), rewrites, expected=2)


def test_a_replaced_graph_output_keeps_its_name() -> None:
    graph = _graph()
    graph.nodes[1].name = "positive/Abs_1"
    run(graph, AbsOfPositive(), expected=2)
    assert [output.name for output in graph.outputs] == ["out"]
    assert graph.outputs[0].inputs[0].op == "Identity"
