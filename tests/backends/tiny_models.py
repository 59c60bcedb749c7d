"""Tiny ONNX models for backend tests, with node names like those of a traced model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser

from graphs.artifacts import TensorSpec


def parse(signature: str, body: str, *, opset: int = 20) -> onnx.ModelProto:
    """`parse("(float[batch,4] x) => (float[batch,4] y)", "y = Relu(x)")`; node i is `blocks.<i>.attn/<op>`."""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]>\n g {signature} {{ {body} }}')
    for i, node in enumerate(model.graph.node):
        node.name = f"blocks.{i}.attn/{node.op_type}"
    return model


def save(folder: Path, signature: str, body: str, *, opset: int = 20) -> Path:
    path = folder / "model.onnx"
    onnx.save(parse(signature, body, opset=opset), path)
    return path


def linear(folder: Path, *, width: int, half: bool = False) -> Path:
    """`y = relu(x @ w)` of `[batch, width]`, with `width * width` seeded weights, in FP16 between casts if `half`."""
    if half:
        body = "h = Cast<to=10>(x) m = MatMul(h, w) r = Relu(m) y = Cast<to=1>(r)"
    else:
        body = "m = MatMul(x, w) y = Relu(m)"
    model = parse(f"(float[batch,{width}] x) => (float[batch,{width}] y)", body)
    weights = np.random.default_rng(0).standard_normal((width, width)) / width**0.5
    kind = np.float16 if half else np.float32
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights.astype(kind), "w"))
    path = folder / ("half.onnx" if half else "full.onnx")
    onnx.save(model, path)
    return path


def specs(path: Path) -> tuple[TensorSpec, ...]:
    """The inputs that a model file declares."""
    return tuple(
        TensorSpec(
            name=value.name,
            dtype=onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name,
            shape=tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim),
        )
        for value in onnx.load(path, load_external_data=False).graph.input
    )
