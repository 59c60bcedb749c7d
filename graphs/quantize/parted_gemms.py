"""A GEMM whose channels are parted behind it becomes one GEMM for each part, so that no runtime copies them apart.

    Split(x W + b)  ->  x W_1 + b_1, x W_2 + b_2

ONNX Runtime spends 3 % of an INT8 model's time on cutting up the output of gated MLPs.
Constraints: nothing else reads the whole, and every part is wide enough to fill a device by itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from graphs.constants import constant_value
from graphs.outside_readers import only_reader
from graphs.quantize.quantizers import QuantizedGemm
from graphs.weights.gemms import WeightGemm
from graphs.weights.stored import StoredValues

Array = npt.NDArray[Any]
NARROWEST_PART = 512


def parted(graph: gs.Graph, gemm: WeightGemm, planned: QuantizedGemm) -> Iterator[tuple[WeightGemm, QuantizedGemm]]:
    """The GEMMs that take its place in `graph`, each with its share of the plan; itself where it stays whole.

    For use within `outside_readers`."""
    split, bias = _split_behind(gemm)
    if split is None:
        yield gemm, planned
        return
    shift = sum((each for each in (bias, planned.bias_shift) if each is not None), np.zeros(gemm.out_features))
    codes = planned.codes.load() if isinstance(planned.codes, StoredValues) else planned.codes
    parts, start = list(split.outputs), 0
    split.outputs.clear()
    for i, part in enumerate(parts):
        columns = slice(start, start := start + part.shape[-1])
        inputs = [gemm.activation, gemm.weight]
        node = gs.Node("MatMul", f"{gemm.name}/part_{i}", inputs=inputs, outputs=[part])
        graph.nodes.append(node)
        share = dataclasses.replace(
            planned,
            codes=np.ascontiguousarray(codes[:, columns]),
            weight_steps=planned.weight_steps[columns],
            bias_shift=np.asarray(shift[columns], np.float32),
        )
        yield dataclasses.replace(gemm, node=node, out_features=part.shape[-1]), share


def _split_behind(gemm: WeightGemm) -> tuple[gs.Node | None, Array | None]:
    """The Split that parts its output, and the bias in between."""
    reader, bias = only_reader(gemm.node.outputs[0]), None
    if reader is not None and reader.op == "Add":
        known = [value for tensor in reader.inputs if (value := constant_value(tensor)) is not None]
        bias = known[0] if known and known[0].shape == (gemm.out_features,) else None
        reader = None if bias is None else only_reader(reader.outputs[0])
    if gemm.node.op != "MatMul" or reader is None or not _parts_channels(reader):
        return None, None
    return reader, bias


def _parts_channels(node: gs.Node) -> bool:
    if node.op != "Split" or node.inputs[0].shape is None:
        return False
    last = len(node.inputs[0].shape) - 1
    widths = [None if part.shape is None else part.shape[-1] for part in node.outputs]
    return node.attrs.get("axis", 0) in (-1, last) and all(
        isinstance(width, int) and width >= NARROWEST_PART for width in widths
    )
