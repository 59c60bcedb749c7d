"""`softmax(scale * q k^T) v` over heads -> `com.microsoft.MultiHeadAttention` over rows [B, N, H * hd].

    before  rows -> 3 x (Reshape -> Transpose) -> Mul(scale), Transpose(k) -> MatMul -> Softmax -> MatMul -> Transpose
    after   rows -> MultiHeadAttention -> Reshape

Its kernels never hold the scores of all tokens: those of the CPU stay within the second cache, those of a GPU are flash
attention, where primitives launch a dozen kernels. Queries of another length than the keys are taken. Equal to
rounding; in a half graph the statistics are FP32, as they were between casts.
Constraints: no mask (with one, the kernel of the CPU writes all scores), and no one else reads what lies in between.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import onnx_graphsurgeon as gs

from graphs.builders import NodeBuilder, redirect
from graphs.constants import constant_value
from graphs.names import own_name, site_of
from graphs.outside_readers import only_reader, take_name
from graphs.rewrite import Match, Miss
from graphs.rewrites.runtime.head_rows import HEADS_FIRST, KERNEL_TYPES, as_rows
from graphs.structure.flow import made_by, producer

_MASKING = frozenset({"Add", "Sub", "Where", "Max", "Min"})


@dataclass(frozen=True)
class AttendAtOnce:
    name: str = "attend_at_once"

    def match(self, node: gs.Node) -> Match | Miss | None:
        """The site is the softmax."""
        if node.op != "Softmax" or node.attrs.get("axis", -1) not in (-1, len(node.inputs[0].shape or ()) - 1):
            return None
        product, factor, between = _above(node.inputs[0])
        if product is None:
            return None
        if product.op in _MASKING:
            masked = any(_above(tensor)[0] is not None for tensor in product.inputs)
            return Miss("a mask or a bias is added to its scores", node.name) if masked else None
        end, values, behind = _below(node.outputs[0])
        if end is None or values is None:
            return Miss("others read its shares, or its result is not laid out token by token", node.name)
        if any(only_reader(tensor) is None for tensor in (*between, *behind)):
            return Miss("others read its scores or its result", node.name)
        queries, scale = _scaled(product.inputs[0])
        laid = made_by(product.inputs[1], "Transpose")
        if laid is None or laid.attrs.get("perm") != [0, 1, 3, 2]:
            return Miss("its keys are no heads that are transposed for the product", node.name)
        keys, key_scale = _scaled(laid.inputs[0])
        problem = _problem((queries, keys, values), end, factor * scale * key_scale)
        found = {"parts": (queries, keys, values), "scale": factor * scale * key_scale, "end": end}
        return Match(node, found) if problem is None else Miss(problem, node.name)

    def apply(self, graph: gs.Graph, match: Match) -> None:
        node, parts, end = match.node, match.found["parts"], match.found["end"]
        build, own = NodeBuilder(graph, "runtime", site_of(node)), own_name(node)
        batch, count, tokens, _ = parts[0].shape
        size = parts[2].shape[3]
        rows = [as_rows(build, part, f"{own}.{role}") for role, part in zip("qkv", parts, strict=True)]
        options: dict[str, Any] = {"num_heads": count, "scale": match.found["scale"]}
        attended = build.contrib("MultiHeadAttention", rows, f"{own}.attended", **options)
        attended.dtype, attended.shape = end.dtype, [batch, tokens, count * size]
        heads = build.op("Reshape", [attended, build.ints(f"{own}.parted", 0, 0, count, size)], f"{own}.heads")
        heads.dtype, heads.shape = end.dtype, end.shape
        take_name(heads, end)
        redirect(end, heads, graph, list(end.outputs))


def _above(tensor: gs.Tensor) -> tuple[gs.Node | None, float, list[gs.Tensor]]:
    """The product of two activations, or what masks it, that the tensor is a multiple of; the factor, and what lies in
    between, the product's own result included. Casts are passed."""
    factor, between = 1.0, []
    while (node := producer(tensor)) is not None:
        between.append(tensor)
        if node.op in _MASKING or (node.op == "MatMul" and all(constant_value(each) is None for each in node.inputs)):
            return node, factor, between
        scaled = _multiple(node)
        if scaled is None and node.op != "Cast":
            break
        tensor, factor = (node.inputs[0], factor) if scaled is None else (scaled[0], factor * scaled[1])
    return None, factor, between


def _below(shares: gs.Tensor) -> tuple[gs.Tensor | None, gs.Tensor | None, list[gs.Tensor]]:
    """[B, N, H, hd] of `shares v`, the values v, and what lies in between."""
    between = [shares]
    reader = only_reader(shares)
    while reader is not None and reader.op == "Cast":
        between.append(reader.outputs[0])
        reader = only_reader(reader.outputs[0])
    if reader is None or reader.op != "MatMul" or reader.inputs[0] is not between[-1]:
        return None, None, between
    between.append(reader.outputs[0])
    laid = only_reader(reader.outputs[0])
    if laid is None or laid.op != "Transpose" or laid.attrs.get("perm") != HEADS_FIRST:
        return None, None, between
    return laid.outputs[0], reader.inputs[1], between


def _scaled(tensor: gs.Tensor) -> tuple[gs.Tensor, float]:
    """What the tensor is a multiple of, and the factor: 1 where it is none."""
    node = producer(tensor)
    found = None if node is None else _multiple(node)
    return (tensor, 1.0) if found is None else found


def _multiple(node: gs.Node) -> tuple[gs.Tensor, float] | None:
    """What a product with one number multiplies, or a quotient divides, and the factor."""
    if node.op not in ("Mul", "Div"):
        return None
    x, other = node.inputs
    if node.op == "Mul" and constant_value(other) is None:
        x, other = other, x
    value = constant_value(other)
    if value is None or value.size != 1 or not float(value.item()) or len(value.shape) > len(x.shape or ()):
        return None
    return x, 1 / float(value.item()) if node.op == "Div" else float(value.item())


def _problem(parts: tuple[gs.Tensor, ...], end: gs.Tensor, scale: float) -> str | None:
    """Why the operator does not take these queries, keys and values."""
    if any(part.shape is None or len(part.shape) != 4 for part in parts):
        return "its queries, keys and values have other than four axes"
    queries, keys, values = (part.shape for part in parts)
    if not all(isinstance(size, int) for shape in (queries, keys, values) for size in (shape[1], shape[3])):
        return "its heads have no fixed number or size"
    if len({queries[1], keys[1], values[1]}) != 1 or queries[3] != keys[3]:
        return "its queries, keys and values have unequal heads"
    if not _one_batch(shape[0] for shape in (queries, keys, values)):
        return "its queries, keys and values are of unequal batches"
    if len({part.dtype for part in (*parts, end)}) != 1 or end.dtype not in KERNEL_TYPES:
        kinds = ", ".join(dict.fromkeys(str(part.dtype) for part in (*parts, end)))
        return f"ONNX Runtime has no kernel that attends in {kinds}"
    return None if scale > 0 else "its scale is no positive number"  # 0 stands for another one


def _one_batch(sizes: Iterable[int | str]) -> bool:
    """Whether none of them is repeated along the batch; an open one may have a name of its own in each."""
    known = list(sizes)
    fixed = [size for size in known if isinstance(size, int)]
    return not fixed or (len(fixed) == len(known) and len(set(fixed)) == 1)
