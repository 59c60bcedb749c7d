"""`(x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) * scale + bias` -> `LayerNormalization(x, scale, bias)`.

How exporters spell LayerNorm below opset 17. Equal in real arithmetic, so to float32 rounding here.

It is more than tidiness. In a graph of half precision the norm computes in FP32 behind a Cast. ONNX Runtime's own
fusion of the spelt-out form drops that Cast and keeps the FP32 scale and bias, which no LayerNormalization takes: the
session does not start. One node is left alone, and TensorRT gets its native norm.

Constraints: over the last axis alone; scale and bias are vectors of one shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from graphs.builders import NodeBuilder, redirect
from graphs.outside_readers import only_reader
from graphs.rewrite import Match, Miss
from graphs.structure.flow import producer

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class FuseLayerNorm:
    name: str = "fuse_layer_norm"

    def match(self, node: gs.Node) -> Match | Miss | None:
        """The site is the division, which only a norm writes below centred values."""
        x = _centred(node.inputs[0]) if node.op == "Div" else None
        if x is None:
            return None
        epsilon = _epsilon(node.inputs[1], x)
        if epsilon is None:
            return Miss("its divisor is not sqrt(mean((x - mean)^2) + eps) over the last axis", node.name)
        scaled, scale = _affine(node, "Mul")
        shifted, bias = _affine(scaled, "Add") if scaled is not None else (None, None)
        if shifted is None or scale is None or bias is None or list(scale.shape) != list(bias.shape):
            return Miss("it is not followed by a scale and a bias that are vectors of one shape", node.name)
        return Match(node, {"x": x, "scale": scale, "bias": bias, "epsilon": epsilon, "tail": shifted})

    def apply(self, graph: gs.Graph, match: Match) -> None:
        found, old = match.found, match.found["tail"].outputs[0]
        inputs = [found["x"], found["scale"], found["bias"]]
        build = NodeBuilder(graph, "optimize", match.node.name)
        new = build.op("LayerNormalization", inputs, "layer_norm", axis=-1, epsilon=found["epsilon"])
        new.dtype, new.shape = old.dtype, old.shape
        redirect(old, new, graph, list(old.outputs))
        found["tail"].outputs.clear()


def _centred(tensor: gs.Tensor) -> gs.Tensor | None:
    """`x` where the tensor is `x - mean(x)`."""
    node = producer(tensor)
    if node is None or node.op != "Sub":
        return None
    x, mean = node.inputs
    return x if _mean_of(mean) is x else None


def _mean_of(tensor: gs.Tensor) -> gs.Tensor | None:
    """What the tensor is the mean of, over the last axis, which is kept."""
    node = producer(tensor)
    if node is None or node.op != "ReduceMean" or node.attrs.get("keepdims", 1) != 1:
        return None
    axes = _value(node.inputs[1]) if len(node.inputs) > 1 else node.attrs.get("axes")
    shape = node.inputs[0].shape
    last = [-1] if shape is None else [-1, len(shape) - 1]
    return node.inputs[0] if axes is not None and np.size(axes) == 1 and int(np.ravel(axes)[0]) in last else None


def _epsilon(divisor: gs.Tensor, x: gs.Tensor) -> float | None:
    """`eps` where the divisor is the standard deviation of `x`."""
    root = producer(divisor)
    added = producer(root.inputs[0]) if root is not None and root.op == "Sqrt" else None
    if added is None or added.op != "Add":
        return None
    for variance, other in (added.inputs, added.inputs[::-1]):
        square, epsilon = _mean_of(variance), _value(other)
        if square is not None and epsilon is not None and epsilon.size == 1 and _squared(square) is x:
            return float(epsilon.ravel()[0])
    return None


def _squared(tensor: gs.Tensor) -> gs.Tensor | None:
    """`x` where the tensor is `(x - mean(x))^2`; some exporters subtract a second time for it."""
    node = producer(tensor)
    if node is None or node.op not in ("Pow", "Mul"):
        return None
    if node.op == "Mul":
        return _centred(node.inputs[0]) if node.inputs[0] is node.inputs[1] else None
    exponent = _value(node.inputs[1])
    return _centred(node.inputs[0]) if exponent is not None and bool((exponent == 2).all()) else None


def _affine(node: gs.Node, op: str) -> tuple[gs.Node | None, gs.Tensor | None]:
    """The one reader of `node`, where it is `op` with a vector, and that vector."""
    made = node.outputs[0]
    reader = only_reader(made)
    if reader is None or reader.op != op:
        return None, None
    vectors = [tensor for tensor in reader.inputs if tensor is not made and len(tensor.shape or ()) == 1]
    return (reader, vectors[0]) if vectors else (None, None)


def _value(tensor: gs.Tensor) -> Array | None:
    return np.asarray(tensor.values) if isinstance(tensor, gs.Constant) else None
