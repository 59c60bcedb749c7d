"""Replacement site -> the token norms in front of it and behind it, and what it replaced, as extra graph outputs.

A lowered site is a run of `Where(condition, replacement, tokens)` named `dsr/lower/<site>/out`, one for each round that
was written out: the first reads the tokens in front of the site, the last makes those behind it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs

from graphs.artifacts import OptimizedModel
from graphs.builders import NodeBuilder
from graphs.dsr.outlier_thresholds import token_norms
from graphs.files import load_inferred_graph, save_graph
from graphs.names import made_name, made_parts

LOWER = "lower"


@dataclass(frozen=True)
class SiteTap:
    """Names of graph outputs: norms [B, N] `before` and `after` the site, and `replaced`, each bool [B, N, 1]."""

    site: str
    before: str
    after: str
    replaced: tuple[str, ...]


def add_site_taps(optimized: OptimizedModel, path: Path) -> list[SiteTap]:
    """Writes a copy to `path` that also gives each replacement site's taps; no copy where there is no site."""
    graph = load_inferred_graph(optimized.path)
    taps = [_tap(graph, site, rounds) for site, rounds in _sites(graph)]
    if taps:
        save_graph(graph, path)
    return taps


def _sites(graph: gs.Graph) -> Iterator[tuple[str, list[gs.Node]]]:
    """Sites in order with their `Where` nodes. Register neurons have such a node too, but detect nothing."""
    names = {node.name for node in graph.nodes}
    found: dict[str, list[tuple[int, gs.Node]]] = {}
    for node in graph.nodes:
        made = made_parts(node.name) if node.op == "Where" else None
        if made and (made.stage, made.role) == (LOWER, "out") and made_name(LOWER, made.site, "outlier") in names:
            found.setdefault(made.site, []).append((made.count, node))
    for site, rounds in found.items():
        yield site, [node for _, node in sorted(rounds, key=lambda each: each[0])]


def _tap(graph: gs.Graph, site: str, rounds: list[gs.Node]) -> SiteTap:
    before = _norms(graph, site, "before", rounds[0].inputs[2])
    after = _norms(graph, site, "after", rounds[-1].outputs[0])
    replaced = [node.inputs[0] for node in rounds]
    for tensor in replaced:
        tensor.dtype = np.dtype(bool)
        graph.outputs.append(tensor)
    return SiteTap(site, before, after, tuple(tensor.name for tensor in replaced))


def _norms(graph: gs.Graph, site: str, role: str, tokens: gs.Tensor) -> str:
    norms, _ = token_norms(NodeBuilder(graph, f"tap-{role}", site), tokens)
    norms.dtype = np.dtype(np.float32)
    graph.outputs.append(norms)
    return str(norms.name)
