"""Replaced tokens keep the type of the residual stream, so that no FP32 copy of all tokens is written.

    before  Where(mask, Gather(registers), Cast(x to FP32)) -> Cast(to half), FP32 readers
    after   Where(mask, Gather(half registers), x)          -> half readers, Cast(to FP32) -> FP32 readers

Detection computes in FP32; what it puts in the place of a token does not have to: the stream it goes into is half. The
tokens that stay are the same bit for bit, the registers are rounded as they were on their way into the stream.
Constraints: the tokens come from a narrower tensor, and every register is held by its type: a norm that reads the
tokens in FP32 would enlarge what is lost of a register that is small as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs

from graphs.builders import NodeBuilder
from graphs.constants import constant_value
from graphs.names import is_lowered, own_name, site_of
from graphs.outside_readers import only_reader, take_name
from graphs.precisions import FLOAT, HELD, Held
from graphs.rewrite import Match, Miss
from graphs.structure.flow import producer

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ReplaceNarrow:
    name: str = "replace_narrow"

    def match(self, node: gs.Node) -> Match | Miss | None:
        if node.op != "Where" or not is_lowered(node.name) or node.outputs[0].dtype != np.float32:
            return None
        widened = producer(node.inputs[2])
        if widened is None or widened.op != "Cast" or len(node.outputs[0].shape or ()) != 3:
            return None
        x = widened.inputs[0]
        low = None if x.dtype is None else onnx.helper.np_dtype_to_tensor_dtype(np.dtype(x.dtype))
        rows = _registers(node.inputs[1])
        if low is None or low == FLOAT or low not in HELD:
            return None
        if rows is None:
            return Miss("what it puts in the place of a token is no constant row", node.name)
        lost = _not_held(np.atleast_2d(rows), HELD[low])
        if lost is not None:
            return Miss(f"a register of {lost:.3g} is more or less than its type holds", node.name)
        return Match(node, {"x": x, "low": low})

    def apply(self, graph: gs.Graph, match: Match) -> None:
        node, x, low = match.node, match.found["x"], match.found["low"]
        build, own, old = NodeBuilder(graph, "lower", site_of(node)), own_name(node), node.outputs[0]
        readers = list(old.outputs)
        out = build.op("Where", [node.inputs[0], _narrow(build, own, node.inputs[1], low), x], f"{own}.narrow")
        out.dtype, out.shape = x.dtype, old.shape
        take_name(out, old)
        wide = [reader for reader in readers if not (reader.op == "Cast" and reader.attrs["to"] == low)]
        for reader in (each for each in readers if each not in wide):
            for next_reader in list(reader.outputs[0].outputs):
                next_reader.inputs = [out if t is reader.outputs[0] else t for t in next_reader.inputs]
        if wide:
            again = build.op("Cast", [out], f"{own}.wide", to=FLOAT)
            again.dtype, again.shape = np.dtype(np.float32), old.shape
            for reader in wide:
                reader.inputs = [again if tensor is old else tensor for tensor in reader.inputs]


def _registers(tensor: gs.Tensor) -> Array | None:
    """The constant rows that `tensor` is gathered from, or the constant it is."""
    maker = producer(tensor)
    if maker is not None and maker.op == "Gather" and only_reader(tensor) is not None:
        return constant_value(maker.inputs[0])
    return constant_value(tensor)


def _not_held(rows: Array, held: Held) -> float | None:
    """The largest magnitude of a register [R, D] that is beyond the type, or that is lost in its steps."""
    sizes = np.abs(rows.astype(np.float64)).max(axis=1, initial=0.0)
    beyond = sizes[(sizes > held.largest) | ((sizes > 0) & (sizes < held.least))]
    return float(beyond[0]) if beyond.size else None


def _narrow(build: NodeBuilder, own: str, chosen: gs.Tensor, low: int) -> gs.Tensor:
    kind = onnx.helper.tensor_dtype_to_np_dtype(low)
    maker = producer(chosen)
    if maker is None or maker.op != "Gather":
        known = constant_value(chosen)
        assert known is not None  # `_registers` took no other
        return build.constant(f"{own}.value", known.astype(kind))
    table = constant_value(maker.inputs[0])
    assert table is not None
    rows = build.constant(f"{own}.registers", table.astype(kind))
    made = build.op("Gather", [rows, maker.inputs[1]], f"{own}.chosen", **maker.attrs)
    made.dtype, made.shape = np.dtype(kind), chosen.shape
    return made
