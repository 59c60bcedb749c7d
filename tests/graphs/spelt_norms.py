"""GEMM -> a norm spelt out in primitives -> GEMM, in the ways exporters write it, as a model in ONNX text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

WIDTH, EPSILON = 32, 1e-5
AXES = "axes = Constant <value_ints = [{axis}]> ()"
MEAN = "mean = ReduceMean (x, axes)\ncentred = Sub (x, mean)"
DEVIATION = "variance = ReduceMean (square, axes)\nsafe = Add (variance, epsilon)\nroot = Sqrt (safe)"
AFFINE = "scaled = Mul (normed, scale)\ny = Add (scaled, bias)"

NORMED = "normed = Div (centred, root)"
POWER = f"{MEAN}\nsquare = Pow (centred, two)\n"

SPELT: Mapping[str, str] = {
    "pow": f"{POWER}{DEVIATION}\n{NORMED}\n{AFFINE}",
    "product": f"{MEAN}\nsquare = Mul (centred, centred)\n{DEVIATION}\n{NORMED}\n{AFFINE}",
    "twice": f"{MEAN}\nagain = Sub (x, mean)\nsquare = Pow (again, two)\n{DEVIATION}\n{NORMED}\n{AFFINE}",
    "plain": f"{POWER}{DEVIATION}\ny = Div (centred, root)",
    "no bias": f"{POWER}{DEVIATION}\n{NORMED}\ny = Mul (normed, scale)",
    "reciprocal": f"{POWER}{DEVIATION}\ninverse = Reciprocal (root)\nnormed = Mul (centred, inverse)\n{AFFINE}",
    "biased root": f"{POWER}variance = ReduceMean (square, axes)\ndeviation = Sqrt (variance)\n"
    f"root = Add (deviation, epsilon)\n{NORMED}\n{AFFINE}",
    "rms": f"square = Mul (x, x)\n{DEVIATION}\nnormed = Div (x, root)\ny = Mul (normed, scale)",
}


def spelt_norm(path: Path, style: str, *, axis: int = -1) -> Path:
    """The model, saved."""
    onnx.save(spelt_norm_model(style, axis=axis), path)
    return path


def spelt_norm_model(style: str, *, axis: int = -1) -> onnx.ModelProto:
    """`a [batch, 4, WIDTH] -> out`, its nodes named as in a module whose name tells nothing."""
    body = "\n".join([AXES.format(axis=axis), "x = MatMul (a, w1)", SPELT[style], "out = MatMul (y, w2)"])
    shape = f"float[batch,4,{WIDTH}]"
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 20]> g ({shape} a) => ({shape} out) {{\n{body}\n}}'
    )
    for i, node in enumerate(model.graph.node):
        node.name = f"blocks.0/{node.op_type}_{i}"
    read = {name for node in model.graph.node for name in node.input}
    tensors = [numpy_helper.from_array(value, name) for name, value in weights().items() if name in read]
    model.graph.initializer.extend(tensors)
    return model


def weights() -> dict[str, npt.NDArray[np.float32]]:
    rng = np.random.default_rng(3)
    drawn = {"scale": (WIDTH,), "bias": (WIDTH,), "w1": (WIDTH, WIDTH), "w2": (WIDTH, WIDTH)}
    arrays = {name: (rng.standard_normal(shape) / 5).astype(np.float32) for name, shape in drawn.items()}
    return arrays | {"two": np.array(2, np.float32), "epsilon": np.array(EPSILON, np.float32)}
