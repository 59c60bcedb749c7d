"""What is known of an engine when it is built, and unknowable later without a GPU. JSON values throughout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import onnx

from dsr_export.config import BatchRange
from dsr_export.errors import ExportError
from graphs.artifacts import TensorSpec

NUMPY_NAMES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16"}
"""TensorRT's names of element types, where they are not numpy's in capitals."""

ProfileShapes = dict[str, dict[str, list[int]]]


def profile_shapes(batch: BatchRange, inputs: Sequence[TensorSpec]) -> ProfileShapes:
    """Input -> `min`, `opt` and `max` shape."""
    sizes = {"min": batch.min, "opt": batch.opt, "max": batch.max}
    return {spec.name: {key: list(spec.with_batch(size)) for key, size in sizes.items()} for spec in inputs}


def signature(network: Any, model: onnx.ModelProto, inputs: Sequence[TensorSpec]) -> dict[str, list[dict[str, Any]]]:
    """`inputs` and `outputs` of a parsed network, as the model declares them and as TensorRT understood them.

    Raises:
        ExportError: a type or shape that TensorRT changed, or inputs other than the given ones.
    """
    declared = {value.name: value for value in [*model.graph.input, *model.graph.output]}
    made = {
        "inputs": [network.get_input(i) for i in range(network.num_inputs)],
        "outputs": [network.get_output(i) for i in range(network.num_outputs)],
    }
    facts = {key: [_tensor(tensor, declared[tensor.name]) for tensor in tensors] for key, tensors in made.items()}
    changed = [entry for entries in facts.values() for entry in entries if entry["dtype"] != entry["declared_dtype"]]
    if changed:
        told = ", ".join(f"{entry['name']} from {entry['declared_dtype']} to {entry['dtype']}" for entry in changed)
        raise ExportError(
            f"TensorRT would change the type of {told}",
            hint="use FP32 and INT64 inputs and outputs; engines have no FP64",
        )
    for entry in facts["outputs"]:
        if not _agree(entry["declared_shape"], entry["shape"]):
            raise ExportError(
                f"output '{entry['name']}' is declared {entry['declared_shape']}, and TensorRT makes {entry['shape']}"
            )
    found = {entry["name"]: (entry["dtype"], _fixed(entry["declared_shape"])) for entry in facts["inputs"]}
    wanted = {spec.name: (spec.dtype, _fixed(spec.shape)) for spec in inputs}
    if found != wanted:
        raise ExportError(f"the model takes the inputs {found}, where {wanted} are declared")
    return facts


def layer_facts(network: Any) -> dict[str, Any]:
    """`layers` of the network as parsed (before fusion), and `layer_output_types`: type of first output -> count."""
    kinds: Counter[str] = Counter()
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        if layer.num_outputs and (output := layer.get_output(0)) is not None:
            kinds[numpy_name(output.dtype)] += 1
    return {"layers": network.num_layers, "layer_output_types": dict(sorted(kinds.items()))}


def numpy_name(kind: Any) -> str:
    """The numpy name of a TensorRT `DataType`; `bfloat16` and the like for types that numpy lacks."""
    name = str(kind.name)
    return NUMPY_NAMES.get(name, name.lower())


def _tensor(tensor: Any, declared: onnx.ValueInfoProto) -> dict[str, Any]:
    kind = declared.type.tensor_type
    return {
        "name": tensor.name,
        "declared_dtype": onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name,
        "dtype": numpy_name(tensor.dtype),
        "declared_shape": [dim.dim_param or dim.dim_value for dim in kind.shape.dim],
        "shape": list(tensor.shape),
    }


def _agree(declared: Sequence[int | str], made: Sequence[int]) -> bool:
    """Static axes must be the same; one that is dynamic on either side says nothing (0 and -1: not known)."""
    return len(declared) == len(made) and all(
        a == b for a, b in zip(declared, made, strict=True) if isinstance(a, int) and a > 0 and b >= 0
    )


def _fixed(shape: Sequence[int | str]) -> list[int | None]:
    """A shape without the names of its dynamic axes, which need not agree."""
    return [axis if isinstance(axis, int) else None for axis in shape]
