"""Local functions of a model, inlined, after it was counted what that makes: 30 functions that each call the next one
twice are a billion nodes."""

from __future__ import annotations

from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter

import onnx
from onnx import inliner

from graphs.errors import ExportError
from graphs.foreign.model_parts import nodes_within
from graphs.foreign.soundness import MOST_NODES

DEEPEST = 200  # functions that call one another; the inliner is recursive
Key = tuple[str, str, str]


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` without local functions.

    Raises:
        ExportError: functions that call themselves, that nest too deep, or that make too many nodes.
    """
    if not model.functions:
        return model
    bodies = {(each.domain, each.name, each.overload): nodes_within(each.node) for each in model.functions}
    if len(bodies) < len(model.functions):
        raise ExportError("two functions of the model have one name", hint="export it again")
    _check_size(bodies, nodes_within(model.graph.node))
    return inliner.inline_local_functions(model)


def _check_size(bodies: dict[Key, list[onnx.NodeProto]], main: list[onnx.NodeProto]) -> None:
    calls = {key: {_key(node) for node in nodes} & bodies.keys() for key, nodes in bodies.items()}
    try:
        order = list(TopologicalSorter(calls).static_order())  # what is called comes before its callers
    except CycleError as error:
        names = " -> ".join(str(key[1]) for key in error.args[1][:5])
        raise ExportError(f"the model's functions call themselves: {names}", hint="export it without them") from error
    sizes: dict[Key, int] = {}
    depths: dict[Key, int] = {}
    for key in order:
        sizes[key] = _size(bodies[key], sizes)
        depths[key] = 1 + max((depths[called] for called in calls[key]), default=0)
    total = _size(main, sizes)
    if total > MOST_NODES:
        raise ExportError(
            f"the model's functions make {_about(total)} nodes, and at most {MOST_NODES:,} are taken",
            hint="export it without functions, or a smaller part of it",
        )
    if max(depths.values()) > DEEPEST:
        raise ExportError(f"the model's functions nest {max(depths.values())} deep", hint="export it without functions")


def _size(nodes: Iterable[onnx.NodeProto], sizes: dict[Key, int]) -> int:
    return min(sum(sizes.get(_key(node), 1) for node in nodes), 10**12)


def _about(total: int) -> str:
    return f"{total:,}" if total < 10**12 else "more than a billion"


def _key(node: onnx.NodeProto) -> Key:
    return node.domain, node.op_type, node.overload
