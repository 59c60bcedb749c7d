"""Files of a small bundle, good and bad."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

WEIGHTS = np.arange(1024, dtype=np.float32)


def external_model(location: str, **entries: str) -> bytes:
    """`out = x + w`, with `w` kept outside the model."""
    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1024], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": "0", "length": str(WEIGHTS.nbytes), **entries}.items():
        weights.external_data.add(key=key, value=value)
    return model_bytes([helper.make_node("Add", ["x", "w"], ["out"], name="add")], [weights])


def model_bytes(nodes: list[onnx.NodeProto], weights: list[TensorProto]) -> bytes:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1024])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", 1024])
    graph = helper.make_graph(nodes, "g", [value], [out], initializer=weights)
    data: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]).SerializeToString()
    return data


def golden_bytes() -> bytes:
    stream = io.BytesIO()
    arrays: dict[str, Any] = {"batch1/in/x": np.ones((1, 4), np.float32), "batch1/out/out": np.zeros((1, 0))}
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()
