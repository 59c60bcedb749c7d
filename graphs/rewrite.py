"""The rewrite engine: a rewrite matches nodes, applies itself, and must find the number of sites declared.

A miss is data (a reason and the culprit node), so that an exporter can say which site nearly matched and why not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import onnx_graphsurgeon as gs

from graphs.errors import ExportError
from graphs.outside_readers import outside_readers


@dataclass(frozen=True)
class Match:
    """A node the rewrite applies to, and what matching learned about it."""

    node: gs.Node
    found: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Miss:
    """A candidate that does not match: why, and where."""

    reason: str
    node: str


SHOWN = 6  # near misses in a message; a model of 28 blocks repeats them


def near(misses: Sequence[Miss]) -> str:
    """`near misses: NODE: REASON; ...`, equal reasons once."""
    if not misses:
        return "near misses: none"
    first = {miss.reason.split(", at ")[0]: miss for miss in reversed(misses)}
    shown = [f"{miss.node}: {miss.reason}" for miss in reversed(first.values())]
    more = f"; and {len(misses) - SHOWN} more" if len(shown) > SHOWN else ""
    return "near misses: " + "; ".join(shown[:SHOWN]) + more


class Rewrite(Protocol):
    """One graph transformation. `match` is pure; `None` says that the node is no candidate at all."""

    @property
    def name(self) -> str: ...

    def match(self, node: gs.Node) -> Match | Miss | None: ...

    def apply(self, graph: gs.Graph, match: Match) -> None: ...


@dataclass(frozen=True)
class RewriteReport:
    """What one rewrite did: sites rewritten (their node names), near misses, and operator counts around it.

    `operators` is the change in the number of nodes by operator type, where there is one.
    """

    name: str
    sites: tuple[str, ...]
    misses: tuple[Miss, ...] = ()
    nodes_before: int = 0
    nodes_after: int = 0
    operators: Mapping[str, int] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return len(self.sites)

    def as_dict(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "sites": list(self.sites),
            "misses": [{"reason": miss.reason, "node": miss.node} for miss in self.misses],
            "nodes_before": self.nodes_before,
            "nodes_after": self.nodes_after,
            "operators": dict(self.operators),
        }


def run(graph: gs.Graph, rewrite: Rewrite, *, expected: int | None = None) -> RewriteReport:
    """Applies `rewrite` wherever it matches, once per node present at the start.

    Raises:
        ExportError: `expected` is given and another number of sites matched; the message names the near misses.
    """
    before, operators = len(graph.nodes), operator_counts(graph)
    with outside_readers(graph):
        matches, misses = _matched(graph, rewrite)
        wrong = expected is not None and len(matches) != expected
        for match in () if wrong else matches:
            rewrite.apply(graph, match)
    names = tuple(match.node.name for match in matches)
    if expected is not None and wrong:
        raise _count_error(rewrite.name, expected, names, misses)
    graph.cleanup(remove_unused_graph_inputs=False).toposort()
    change = operator_change(operators, operator_counts(graph))
    return RewriteReport(rewrite.name, names, misses, before, len(graph.nodes), change)


def _matched(graph: gs.Graph, rewrite: Rewrite) -> tuple[list[Match], tuple[Miss, ...]]:
    results = [result for node in list(graph.nodes) if (result := rewrite.match(node)) is not None]
    matches = [result for result in results if isinstance(result, Match)]
    return matches, tuple(result for result in results if isinstance(result, Miss))


def operator_counts(graph: gs.Graph) -> Counter[str]:
    """Operator type -> number of nodes."""
    return Counter(str(node.op) for node in graph.nodes)


def operator_change(before: Counter[str], after: Counter[str]) -> dict[str, int]:
    """Operator type -> how many more nodes of it `after` has; equal counts are left out."""
    return {op: after[op] - before[op] for op in sorted(before | after) if after[op] != before[op]}


def run_first(graph: gs.Graph, rewrites: Sequence[Rewrite], *, expected: int) -> list[RewriteReport]:
    """Applies to each node the first of `rewrites` that matches it; a later one runs where earlier ones missed.

    Raises:
        ExportError: the sites of all `rewrites` together are not `expected`; the message names the nodes that every
            one of them missed, with each one's reason. The graph may have been changed by then.
    """
    reports: list[RewriteReport] = []
    for rewrite in rewrites:
        reports.append(run(graph, rewrite))
        if not reports[-1].misses:
            break
    sites = tuple(name for report in reports for name in report.sites)
    if len(sites) != expected:
        misses = tuple(miss for report in reports for miss in report.misses if miss.node not in sites)
        raise _count_error(" / ".join(rewrite.name for rewrite in rewrites), expected, sites, misses)
    return reports


_COUNT_HINT = "the DSR spec declares the sites; correct it, or look at the near misses with `dsr-export inspect`"


def _count_error(name: str, expected: int, sites: Sequence[str], misses: Sequence[Miss]) -> ExportError:
    near = "; ".join(dict.fromkeys(f"{miss.node}: {miss.reason}" for miss in misses)) or "none"
    found = ", ".join(sites) or "none"
    counts = f"{len(sites)} sites found where {expected} are declared"
    return ExportError(f"{name}: {counts} (found: {found}; near misses: {near})", hint=_COUNT_HINT)
