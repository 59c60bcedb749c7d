"""A graph whose every shape is numbers: its free batch is pinned while patterns are looked for.

Inference keeps products with a named axis as unknowns (`batch * heads`), and gives up where a shape is computed from
another one, as TorchScript's exporter writes them. A prime that no model has as a size makes the batch a number that
stays recognisable, and whatever is computed from shapes can be evaluated.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper, numpy_helper
from onnx.external_data_helper import load_external_data_for_tensor

from graphs.files import INLINE_BELOW, imported
from graphs.foreign.brought_in import BATCH
from graphs.foreign.shape_values import Inference, dims_of

PINNED = 999_983  # a prime


def pinned_graph(model: onnx.ModelProto, folder: Path) -> gs.Graph:
    """`model`, whose external weights lie in `folder`, with numbers for shapes and no Constant nodes.

    Shapes that cannot be inferred are None. A free batch counts `PINNED` everywhere but in the graph's inputs.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _inline_small(copy, folder)
    _lift_constants(copy.graph)
    del copy.graph.value_info[:]
    known = Inference(copy, batch=PINNED).run()
    graph = imported(copy, folder)
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Variable):
            kind = known.get(tensor.name)
            tensor.shape = None if kind is None else dims_of(kind)
            tensor.dtype = tensor.dtype if kind is None else _dtype(kind)
    return graph


def unpin(graph: gs.Graph) -> gs.Graph:
    """Names the batch again; multiples of it are called after it. Changes `graph` in place."""
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Variable) and tensor.shape is not None:
            tensor.shape = [_name(dim) for dim in tensor.shape]
    return graph


def is_batch(dim: int) -> bool:
    """Whether a pinned dim grows with the batch."""
    return dim >= PINNED and dim % PINNED == 0


def _name(dim: int) -> int | str:
    if not is_batch(dim):
        return dim
    return BATCH if dim == PINNED else f"{BATCH}*{dim // PINNED}"


def _dtype(kind: onnx.TypeProto) -> Any:
    return helper.tensor_dtype_to_np_dtype(kind.tensor_type.elem_type)


def _inline_small(model: onnx.ModelProto, folder: Path) -> None:
    """Shapes and axes must be readable; only weights stay in their file."""
    for tensor in model.graph.initializer:
        external = tensor.data_location == onnx.TensorProto.EXTERNAL
        if external and math.prod(tensor.dims) * 8 < INLINE_BELOW:
            load_external_data_for_tensor(tensor, str(folder))
            tensor.data_location = onnx.TensorProto.DEFAULT
            del tensor.external_data[:]


def _lift_constants(graph: onnx.GraphProto) -> None:
    """Constant nodes become initialisers, so that there is one kind of constant."""
    kept = []
    for node in graph.node:
        if node.op_type == "Constant":
            graph.initializer.append(_constant(node))
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)


def _constant(node: onnx.NodeProto) -> onnx.TensorProto:
    attribute = node.attribute[0]
    value = helper.get_attribute_value(attribute)
    if attribute.name == "value":
        tensor = onnx.TensorProto()
        tensor.CopyFrom(value)
        tensor.name = node.output[0]
        return tensor
    kind = np.float32 if "float" in attribute.name else np.int64
    return numpy_helper.from_array(np.asarray(value, kind), node.output[0])
