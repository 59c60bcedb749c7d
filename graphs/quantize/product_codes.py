"""What a GEMM of INT8 or FP8 makes, handed on as codes of the same kind: an engine then writes and reads one byte for
each number, not two.

    as planned   MatMul(x, w) -> Q(steps) -> DQ(steps) -> [* rows] -> Add(bias), steps [out] in proportion to w's
    in engines   MatMul(x, w / w's steps) -> Q(1) -> DQ(1) -> Mul(steps) -> ...

An engine's GEMM of codes takes a single factor along, and no bias. So the steps of the product's codes are those of the
weight's codes, times one number for all GEMMs that read the same codes: one factor makes the product's codes of the
integer product, and the channels get their sizes back behind it. (Read from TensorRT-RTX 1.7.1's plans.)
ONNX Runtime's integer kernels make floats, and would gain nothing: there the product stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from graphs.builders import NodeBuilder
from graphs.constants import constant_value
from graphs.names import made_role, site_of
from graphs.precisions import HALF
from graphs.quantize.formats import format_of
from graphs.quantize.quantizers import held_step

Array = npt.NDArray[Any]
CODES, VALUES = "product_codes", "product"
ALIKE = 1e-5  # what single precision leaves of a proportion


def add_product_codes(build: NodeBuilder, product: gs.Variable, steps: Array) -> None:
    """Puts codes of the given steps [out] between a GEMM and those who read its `product`, which keeps its name."""
    maker, shape = product.inputs[0], product.shape
    before = gs.Variable(f"{product.name}.{CODES}", np.dtype(np.float32), shape)
    maker.outputs = [before]
    kind = maker.inputs[1].inputs[0].inputs[0].dtype  # of its weight
    given = [build.constant("product_steps", steps), build.constant("product_zero", np.zeros(len(steps), kind))]
    codes = build.op("QuantizeLinear", [before, *given], CODES, axis=-1)
    codes.dtype = np.dtype(kind)
    build.op("DequantizeLinear", [codes, *given], VALUES, axis=-1).inputs[0].outputs = [product]


def drop_product_codes(graph: gs.Graph) -> int:
    """Products stay floats: takes their codes away, in place; returns how many there were."""
    found = list(_coded(graph))
    for quantize, dequantize in found:
        _drop(quantize, dequantize)
    graph.cleanup(remove_unused_graph_inputs=False)
    return len(found)


def join_product_steps(graph: gs.Graph) -> list[str]:
    """One factor for all channels of a product's codes, as an engine takes it, in place; returns the GEMMs whose
    products are codes afterwards, by their modules. Those that no such factor fits, or whose numbers half precision
    does not hold, stay floats."""
    joined = []
    for quantize, dequantize in list(_coded(graph)):
        weight = quantize.inputs[0].inputs[0].inputs[1].inputs[0]
        factors = _factors(weight, quantize)
        if factors is None:
            _drop(quantize, dequantize)
        else:
            _join(NodeBuilder(graph, "quantize", site_of(quantize)), quantize, dequantize, weight, *factors)
            joined.append(site_of(quantize))
    graph.cleanup(remove_unused_graph_inputs=False)
    return joined


def _drop(quantize: gs.Node, dequantize: gs.Node) -> None:
    maker, product = quantize.inputs[0].inputs[0], dequantize.outputs[0]
    quantize.inputs.clear()
    dequantize.outputs.clear()
    maker.outputs = [product]


def _factors(weight: gs.Node, quantize: gs.Node) -> tuple[np.float32, Array] | None:
    """The factor of all codes of the weight, and the size [out] of a product's code in each channel."""
    own, steps = constant_value(weight.inputs[1]), constant_value(quantize.inputs[1])
    if own is None or steps is None or own.shape != steps.shape:
        return None
    ratios = steps / own
    unit = held_step(1 / float(np.median(ratios)))
    sizes = np.asarray(own / unit, np.float32)
    known = np.ptp(ratios) <= ALIKE * ratios.max() and all(
        float(size) in HALF for size in (unit, sizes.min(), sizes.max() * format_of(quantize.inputs[2]).largest)
    )
    return (unit, sizes) if known else None


def _join(
    build: NodeBuilder, quantize: gs.Node, dequantize: gs.Node, weight: gs.Node, unit: np.float32, sizes: Array
) -> None:
    kind = quantize.inputs[2].dtype
    zero, one = build.constant("joint_zero", np.zeros(1, kind)), build.constant("product_unit", np.ones(1, np.float32))
    weight.attrs, weight.inputs = {}, [weight.inputs[0], build.constant("weight_unit", np.asarray(unit)), zero]
    for node in (quantize, dequantize):
        node.attrs, node.inputs = {}, [node.inputs[0], one, zero]
    product = dequantize.outputs[0]
    even = gs.Variable(f"{product.name}.even", product.dtype, product.shape)
    dequantize.outputs = [even]
    build.op("Mul", [even, build.constant("channel_sizes", sizes)], "product_back").inputs[0].outputs = [product]


def _coded(graph: gs.Graph) -> Iterator[tuple[gs.Node, gs.Node]]:
    """The two nodes of each product's codes."""
    for node in graph.nodes:
        if node.op == "QuantizeLinear" and made_role(str(node.name), "quantize") == CODES:
            (dequantize,) = node.outputs[0].outputs
            yield node, dequantize
