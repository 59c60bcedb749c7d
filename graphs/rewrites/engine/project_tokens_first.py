"""Codes of what attention makes, projected with the tokens in front of the batch, as attention's kernel writes them.

    before  a [B, H, N, d] -> Transpose [B, N, H, d] -> Reshape [B, N, H * d] -> Q -> DQ -> MatMul
    after   a [B * H, N, d] -> Transpose [N, B * H, d] -> Reshape [N, B, H * d] -> Q -> DQ -> MatMul -> Transpose

TensorRT-RTX's attention writes codes of a constant range itself, but in that order alone; in the other a kernel copies
them before they are projected. The Transpose behind the product costs nothing: whatever adds the bias reads it so.
The numbers are the same, row by row.
Constraints: a fixed number of tokens and heads, and nothing else that reads the codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_graphsurgeon as gs

from graphs.builders import NodeBuilder
from graphs.names import own_name, site_of
from graphs.outside_readers import only_reader
from graphs.rewrite import Match, Miss
from graphs.structure.attended import is_attended
from graphs.structure.flow import made_by, producer

_TOKENS_FIRST = [1, 0, 2]
_PASSED_ON = ("Cast", "QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class ProjectTokensFirst:
    name: str = "project_tokens_first"

    def match(self, node: gs.Node) -> Match | Miss | None:
        if node.op != "QuantizeLinear" or not _is_number(node) or not is_attended(node.inputs[0]):
            return None
        entry = _past_casts(node.inputs[0])
        rows = made_by(entry, "Reshape")
        turned = None if rows is None else made_by(rows.inputs[0], "Transpose")
        if turned is None or turned.attrs.get("perm") != [0, 2, 1, 3]:
            return Miss("heads are put together otherwise", node.name)
        source, sizes = turned.inputs[0], turned.inputs[0].shape
        if sizes is None or not all(isinstance(size, int) for size in sizes[1:]):
            return Miss("its tokens have no fixed number", node.name)
        if entry.shape is None or list(entry.shape[1:]) != [sizes[2], sizes[1] * sizes[3]]:
            return Miss("heads are not put together token by token", node.name)
        gemm = _only_gemm(node)
        if gemm is None or any(only_reader(each) is None for each in _between(node.inputs[0], entry)):
            return Miss("others read its codes", node.name)
        return Match(node, {"entry": entry, "source": source, "gemm": gemm})

    def apply(self, graph: gs.Graph, match: Match) -> None:
        node, entry, source, gemm = match.node, match.found["entry"], match.found["source"], match.found["gemm"]
        build, own = NodeBuilder(graph, "optimize", site_of(gemm)), own_name(gemm)
        _, heads, tokens, size = source.shape
        apart = build.op("Reshape", [source, build.ints(f"{own}.apart", -1, tokens, size)], f"{own}.heads")
        turned = build.op("Transpose", [apart], f"{own}.tokens_first", perm=_TOKENS_FIRST)
        rows = build.op("Reshape", [turned, build.ints(f"{own}.together", tokens, -1, heads * size)], f"{own}.rows")
        for tensor in (apart, turned, rows):
            tensor.dtype = source.dtype
        first = _between(node.inputs[0], entry)[-1].outputs[0]
        first.inputs = [rows if tensor is entry else tensor for tensor in first.inputs]
        _turn_back(build, own, first, gemm)


def _past_casts(tensor: gs.Tensor) -> gs.Tensor:
    while (cast := made_by(tensor, "Cast")) is not None:
        tensor = cast.inputs[0]
    return tensor


def _between(tensor: gs.Tensor, entry: gs.Tensor) -> list[gs.Tensor]:
    """`tensor`, and what casts make it of, down to `entry`."""
    found = [tensor]
    while found[-1] is not entry:
        found.append(found[-1].inputs[0].inputs[0])
    return found


def _only_gemm(quantize: gs.Node) -> gs.Node | None:
    """The GEMM that reads the codes, where it is the only one."""
    values = only_reader(quantize.outputs[0])
    gemm = None if values is None else only_reader(values.outputs[0])
    if values is None or gemm is None or gemm.op != "MatMul" or gemm.inputs[0] is not values.outputs[0]:
        return None
    weight = made_by(gemm.inputs[1], "DequantizeLinear")
    return gemm if weight is not None and producer(weight.inputs[0]) is None else None


def _turn_back(build: NodeBuilder, own: str, first: gs.Node, gemm: gs.Node) -> None:
    """The batch in front again, behind codes of the product where it has some: its GEMM writes them. `first` is the
    first node that reads the other order."""
    end = gemm.outputs[0]
    while (reader := only_reader(end)) is not None and reader.op in _PASSED_ON and _is_number(reader):
        end = reader.outputs[0]
    node = first
    while node.outputs[0] is not end:
        node.outputs[0].shape = None  # another order now
        node = node.outputs[0].outputs[0]
    before = gs.Variable(f"{end.name}.tokens_first", end.dtype)
    node.outputs = [before]
    back = build.op("Transpose", [before], f"{own}.batch_first", perm=_TOKENS_FIRST)
    back.inputs[0].outputs = [end]  # which may be a graph output, and keeps its name and shape


def _is_number(node: gs.Node) -> bool:
    """Whether the scale of codes is one for all channels, and so does not ask for their axis."""
    return node.op == "Cast" or all(isinstance(each, gs.Constant) and each.values.size == 1 for each in node.inputs[1:])
