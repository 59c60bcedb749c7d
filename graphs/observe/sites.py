"""Sites: the tensors of a graph at which candidates are compared with the reference, in the order values pass.

Each group (a block, an embedder, the final layer) has one outer site, its output: the residual stream behind a block,
after replacement. Its inner sites are what its modules return and what its own code computes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphs.files import load_inferred_graph
from graphs.names import ROOT, is_lowered, module_of
from graphs.observe.site_groups import node_groups
from graphs.structure.movers import MOVERS

MOST_SITES = 2048
"""A block of a transformer has about 35. A graph without modules has one for each node, and a runtime's time to start
grows faster than the outputs that it is asked for."""
SMALL = 1024  # values of one image: cheap to keep whatever they are (modulation, limits of a replacement)
_PARTS = frozenset(["Pow", "Sqrt", "Reciprocal", "ReduceMean", "ReduceSum", "Sigmoid", "Neg", "Cast", "Abs"])
"""Steps inside an activation or a norm: their module's output says as much."""

_UNORDERED = frozenset(["TopK"])  # a runtime may give its values in any order


@dataclass(frozen=True, kw_only=True)
class Site:
    """`tensor` as the graph names it, `module` the PyTorch path that makes it, `shape` without the batch.

    `group` is the outer site that it leads to; `outer` whether it is that site itself.
    """

    tensor: str
    module: str
    group: str
    shape: tuple[int, ...]
    outer: bool = False


def find_sites(path: Path) -> list[Site]:
    """The sites of an optimised graph, in its order. A group's outer site comes behind those that lead to it."""
    graph = load_inferred_graph(path)
    groups = node_groups(graph)
    places = {id(node): i for i, node in enumerate(graph.nodes)}
    members: dict[str, list[gs.Variable]] = {}
    batch = {tensor.shape[0] for tensor in graph.inputs if tensor.shape}
    for node in graph.nodes:
        floats = [tensor for tensor in node.outputs if _comparable(tensor, batch)]
        members.setdefault(groups[id(node)], []).extend(floats)
    ends = {group: end for group, tensors in members.items() if (end := _end(group, tensors, graph, groups))}
    containers = _containers(graph)
    found: list[tuple[int, Site]] = []
    for group, tensors in members.items():
        end = ends.get(group)
        inner = [tensor for tensor in tensors if tensor is not end and end is not None and _telling(tensor, containers)]
        found += [(places[id(tensor.inputs[0])], _site(tensor, group)) for tensor in inner]
        found += [(places[id(end.inputs[0])], _site(end, group, outer=True))] if end is not None else []
    return _thinned([site for _, site in sorted(found, key=lambda pair: pair[0])])


def _thinned(sites: list[Site]) -> list[Site]:
    """All outer sites, and of too many inner ones an even choice, so that the last of a group stays behind the rest."""
    inner = [i for i, site in enumerate(sites) if not site.outer]
    room = max(MOST_SITES - (len(sites) - len(inner)), 0)
    if len(inner) <= room:
        return sites
    kept = {inner[i] for i in np.linspace(0, len(inner) - 1, room).astype(int)}
    return [site for i, site in enumerate(sites) if site.outer or i in kept]


def _site(tensor: gs.Variable, group: str, *, outer: bool = False) -> Site:
    module = module_of(tensor.inputs[0].name)
    shape = tuple(int(size) for size in tensor.shape[1:])
    return Site(tensor=tensor.name, module=group if module == ROOT else module, group=group, shape=shape, outer=outer)


def _comparable(tensor: gs.Variable, batch: set[Any]) -> bool:
    """Float, batch first (heads may be folded into it), and of a known size otherwise."""
    if tensor.dtype != np.float32 or tensor.shape is None or not 2 <= len(tensor.shape) <= 4:
        return False
    return tensor.shape[0] in batch and all(isinstance(size, int) and size > 0 for size in tensor.shape[1:])


def _end(group: str, tensors: list[gs.Variable], graph: gs.Graph, groups: dict[int, str]) -> gs.Variable | None:
    """The largest tensor that leaves the group; the last of several."""
    leaving = [t for t in tensors if t in graph.outputs or any(groups[id(n)] != group for n in t.outputs)]
    sizes = [math.prod(tensor.shape[1:]) for tensor in leaving]
    return max(zip(sizes, range(len(leaving)), leaving, strict=True))[2] if leaving else None


def _containers(graph: gs.Graph) -> set[str]:
    """Modules that call others."""
    paths = {module_of(node.name) for node in graph.nodes}
    return {ROOT} | {path.rsplit(".", 1)[0] for path in paths if "." in path}


def _telling(tensor: gs.Variable, containers: set[str]) -> bool:
    """What leaves a module, and what a module computes between its calls of others; moved values only if they are few.

    The inside of a lowered replacement decides more than it returns: its limits say which tokens are outliers.
    """
    node, module = tensor.inputs[0], module_of(tensor.inputs[0].name)
    small = bool(math.prod(tensor.shape[1:]) <= SMALL)
    if node.op in _UNORDERED:
        return False
    if is_lowered(node.name):
        return small
    if node.op in MOVERS and any(reader.op in MOVERS for reader in tensor.outputs):
        return False  # on its way to one that is kept
    if module in containers and (small or str(node.op) not in MOVERS | _PARTS):
        return True
    moved = bool(node.op in MOVERS)
    return not moved and any(module_of(reader.name) != module for reader in tensor.outputs)
