"""What TensorRT's engine inspector tells of an engine -> its `EngineSchedule`, as one reads it off an RTX plan.

An engine tells its launches, types and sizes. Some versions of TensorRT list no constants: then the weights of GEMMs
are as large as those of the graph, in the type that the kernel's name says it multiplies, and other constants (norms'
gains, biases, tables) are in no sum. `Inspection.unlisted_weights` says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from dsr_export.engine_schedule.blocks import block_of_most, blocks_of
from dsr_export.engine_schedule.graph_sites import GraphSites
from dsr_export.engine_schedule.graph_weights import Weight, graph_weights
from dsr_export.engine_schedule.inspected_launches import NO_LAUNCH, Launches
from dsr_export.engine_schedule.inspected_layers import Inspected, Layer, inspected
from dsr_export.engine_schedule.inspected_products import multiplied_in
from dsr_export.engine_schedule.launches import Call
from dsr_export.engine_schedule.operand_types import CODES
from dsr_export.engine_schedule.plan_text import UnreadableSchedule
from dsr_export.engine_schedule.reader import passed_between
from dsr_export.engine_schedule.record import CONVOLUTION, GEMM, EngineSchedule
from dsr_export.engine_schedule.tensors import Tensor

_VIEWS = frozenset({"reshape", "NoOp"})


@dataclass(frozen=True)
class Inspection:
    """`unlisted_weights` are nodes whose weights the engine does not list, and the graph tells."""

    schedule: EngineSchedule
    unlisted_weights: tuple[str, ...]


def read_inspection(text: str, batch: int, sites: GraphSites) -> Inspection:
    """Of an engine of the graph of `sites`; the text must be that of a context in which `batch` is set.

    Raises:
        UnreadableSchedule: the text is not of the form that is known here, or contradicts itself or the graph.
    """
    told, weights = _in_one_name(inspected(text)), graph_weights(sites)
    launches = Launches(told.layers, sites, weights)
    launched = [each for each in told.layers if each.kind not in NO_LAUNCH]
    _check_flow(told, sites)
    constants = [_constants(each, told, launches.made) for each in launched]
    listed = any(each.count > 1 for found in constants for each in found)
    unlisted = {} if listed else _unlisted(launched, launches, sites, weights)
    made = [
        launches.call(layer, own, [tensor for _, tensor in unlisted.get(i, ())])
        for i, (layer, own) in enumerate(zip(launched, constants, strict=True))
    ]
    nodes = [node for found in unlisted.values() for node, _ in found]
    return Inspection(_schedule(made, batch), tuple(nodes))


def _schedule(made: Sequence[Call], batch: int) -> EngineSchedule:
    blocks = blocks_of(node for each in made for node in each.launch.nodes)
    if not any(each.launch.nodes for each in made):
        raise UnreadableSchedule("no launch names a node of the graph")
    launches = (replace(each.launch, block=block_of_most(each.launch.nodes, blocks)) for each in made)
    return EngineSchedule(batch=batch, launches=tuple(launches), passed=tuple(passed_between(made)))


def _in_one_name(told: Inspected) -> Inspected:
    """What only renames a tensor makes none: whoever reads its output reads its input."""
    roots, layers = dict[str, str](), []
    for layer in told.layers:
        reads = tuple(replace(each, root=roots.get(each.root, each.root)) for each in layer.reads)
        if layer.kind in _VIEWS and layer.writes:
            if len(reads) != 1 or len(layer.writes) != 1 or reads[0].bytes != layer.writes[0].bytes:
                raise UnreadableSchedule(f"the {layer.kind} {layer.name[:60]!r} does not only rename a tensor")
            roots[layer.writes[0].name] = reads[0].root
        layers.append(replace(layer, reads=reads))
    return replace(told, layers=tuple(layers))


def _check_flow(told: Inspected, sites: GraphSites) -> None:
    """Nothing is read before it is made, and the graph's outputs are made: so that no launch is missing."""
    there, last = set[str](), {name: i for i, each in enumerate(told.layers) for name in _names(each.writes)}
    for i, layer in enumerate(told.layers):
        early = [name for name in _names(layer.reads) if name not in there and last.get(name, -1) >= i]
        if early:
            raise UnreadableSchedule(f"{layer.name[:60]!r} reads {early[0][:60]!r} before it is made")
        there.update(_names(layer.writes))
    missing = [each.name for each in sites.model.graph.output if each.name not in there & told.bindings]
    if missing:
        raise UnreadableSchedule(f"nothing makes the output {missing[0]!r}")


def _names(tensors: Iterable[Tensor]) -> list[str]:
    return [each.name for each in tensors]


def _constants(layer: Layer, told: Inspected, made: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """What a layer lists as constants, and what it reads that nothing makes and no caller gives."""
    read = [each for each in layer.reads if each.root not in made and each.root not in told.bindings]
    return tuple(each for each in (*layer.constants, *read) if not each.on_host)


def _unlisted(
    layers: Sequence[Layer], launches: Launches, sites: GraphSites, weights: Mapping[str, Weight]
) -> dict[int, list[tuple[str, Tensor]]]:
    """Place of a layer -> the weights of its GEMMs, by node; one that no GEMM names is of the first layer that does."""
    multiplies = [launches.kind(each) in (GEMM, CONVOLUTION) for each in layers]
    found = dict[int, list[tuple[str, Tensor]]]()
    for node in (*sites.weight_gemms(), *(each for each in weights if each not in sites.weight_gemms())):
        places = [i for i, each in enumerate(layers) if node in each.nodes]
        places = [i for i in places if multiplies[i]] or places[:1]
        if node not in weights or not places:
            raise UnreadableSchedule(f"the engine lists no weights, and tells too little of {node!r}")
        if not any(layers[i].weights for i in places):
            for i in places:
                found.setdefault(i, []).append((node, _stored(weights[node], layers[i], multiplies[i])))
    return found


def _stored(weight: Weight, layer: Layer, multiplies: bool) -> Tensor:
    """The weight as the kernel reads it: what its name says it multiplies, which must be what the graph asks for."""
    named = multiplied_in(layer) if multiplies else None
    kind = weight.type or named
    if kind is None or (named or kind) != kind or (weight.type is None and kind not in CODES):
        told = f"multiplies {named}" if named else "does not tell what it multiplies"
        raise UnreadableSchedule(f"the engine lists no weights, and the kernel of {weight.node!r} {told}")
    dims = (weight.rows, weight.columns)
    return Tensor(name=weight.node, root=weight.node, dims=dims, type=kind, constant=True, on_host=False)
