"""What TensorRT's engine inspector tells of an engine as JSON, taken apart: its layers, with their tensors.

No document describes this JSON. What is known of it, and from where (all of it public, none of it seen here on an
engine of our own):

- The form: an object of `Layers`, objects in the order of launch, and `Bindings`, the names of inputs and outputs. An
  engine that was not built with detailed verbosity has strings for layers.
  https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/engine-tools.html
- Whole files of TensorRT 10, of small convolutional models with a Myelin part (`shape_call`, `kgen`, `gemm`):
  `desktop/torch_onnx_trtexec/results/*/*.graph.json` of https://github.com/fuzzylabs/edge-vision-power-estimation.
  Their GEMMs have the weight among `Inputs`, under a name that nothing makes, and factors of one value (`alpha`).
- A transformer of TensorRT 10.10 in half precision, as a log in https://github.com/NVIDIA/TensorRT/issues/4397: `gemm`,
  `kgen` (an attention is `_gemm_mha_v2`) and `fusion`. No constant is listed there. One tensor is read under several
  sizes where it is split into views: queries, keys and values.
- `Constants` beside `Inputs`, and `reshape`, `signal` and `wait` as kinds of layers: NVIDIA's own readers, under
  `.agents/skills/trt-perf-analysis` of https://github.com/NVIDIA/TensorRT (July 2026).
- Layers outside of Myelin have `Location` (`Device`, `Host`), and spell types in a sentence (`Channel major FP16 format
  where channel % 8 == 0`) where Myelin's have a word (`Half`); weights are a type and a count.
  https://github.com/NVIDIA/TensorRT/issues/4020
- `Metadata` names ONNX nodes, `[ONNX Layer: NAME]`, with a control character between two of them (same sources).
- Sizes that follow the batch are -1, and types are not told, unless the inspector has a context whose input shapes are
  set: `NvInferRuntime.h`, at `IEngineInspector::setExecutionContext`.

Not certain: how FP8 and 4-bit types are spelt, what stands for a product of 4-bit weights, whether `reshape` launches
anything (NVIDIA's readers count it with what does not). Kinds that `inspected_launches` does not list are refused. A
tensor that nothing makes and no caller gives is taken for a constant.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from dsr_export.engine_schedule.plan_text import UnreadableSchedule
from dsr_export.engine_schedule.statements import onnx_nodes
from dsr_export.engine_schedule.tensors import MOST_AXES, MOST_ELEMENTS, Tensor

_TYPES = {
    "float": "float32",
    "fp32": "float32",
    "half": "float16",
    "fp16": "float16",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
    "fp8": "float8e4m3",
    "int8": "int8",
    "uint8": "uint8",
    "int32": "int32",
    "int64": "int64",
    "bool": "bool",
    "int4": "int4",
    "fp4": "float4e2m1",
}
"""The inspector's words for element types, in small letters."""
_MOST_TEXT, _MOST_LAYERS, _LONGEST_NAME = 1 << 28, 1 << 17, 1 << 16


@dataclass(frozen=True, kw_only=True)
class Layer:
    """`reads` and `writes` are what it lists, in order, and what lies on the host among it; `constants` what it lists
    as such. `weights` are those of a layer outside of Myelin: type, and number of values."""

    kind: str
    name: str
    tactic: str
    nodes: tuple[str, ...]
    reads: tuple[Tensor, ...]
    constants: tuple[Tensor, ...]
    writes: tuple[Tensor, ...]
    weights: tuple[tuple[str, int], ...]
    fields: Mapping[str, Any]

    def number(self, key: str) -> int:
        """Raises UnreadableSchedule where there is none."""
        return _whole(self.fields.get(key), f"{key} of the layer {self.name!r}")


@dataclass(frozen=True)
class Inspected:
    """The layers of an engine, and the names of its inputs and outputs."""

    layers: tuple[Layer, ...]
    bindings: frozenset[str]


def inspected(text: str) -> Inspected:
    """Raises UnreadableSchedule where the text is not of the form that is known here."""
    if len(text) > _MOST_TEXT:
        raise UnreadableSchedule("the inspector's text is longer than that of any engine")
    try:
        told = json.loads(text, parse_constant=_no_number, strict=False)
    except (ValueError, RecursionError) as error:
        raise UnreadableSchedule(f"the inspector's text is no JSON: {str(error)[:80]}") from error
    if not isinstance(told, dict):
        raise UnreadableSchedule("the inspector's text is no object")
    layers = _list(told, "Layers")
    if not layers or len(layers) > _MOST_LAYERS:
        raise UnreadableSchedule(f"the inspector tells of {len(layers)} layers")
    if all(isinstance(each, str) for each in layers):
        raise UnreadableSchedule("the inspector tells only names of layers: the engine was not built to tell more")
    return Inspected(
        tuple(map(_layer, layers)), frozenset(_text(each, "a binding") for each in _list(told, "Bindings"))
    )


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def _layer(told: Any) -> Layer:
    if not isinstance(told, dict):
        raise UnreadableSchedule("a layer is no object")
    name = _text(told.get("Name"), "the name of a layer")
    kind = _text(told.get("LayerType"), f"the kind of the layer {name!r}")
    reads, writes = (_tensors(told, key, name) for key in ("Inputs", "Outputs"))
    return Layer(
        kind=kind,
        name=name,
        tactic=_text(told.get("TacticName", ""), f"the tactic of the layer {name!r}"),
        nodes=onnx_nodes(_text(told.get("Metadata", ""), f"the metadata of the layer {name!r}"), kind),
        reads=reads,
        constants=_tensors(told, "Constants", name) if "Constants" in told else (),
        writes=writes,
        weights=tuple(_weights(told[key], name) for key in ("Weights", "Bias") if key in told),
        fields=told,
    )


def _tensors(told: Mapping[str, Any], key: str, layer: str) -> tuple[Tensor, ...]:
    return tuple(_tensor(each, layer) for each in _list(told, key))


def _tensor(told: Any, layer: str) -> Tensor:
    if not isinstance(told, dict):
        raise UnreadableSchedule(f"a tensor of the layer {layer!r} is no object")
    name = _text(told.get("Name"), f"the name of a tensor of the layer {layer!r}")
    dims = tuple(_whole(each, f"a size of the tensor {name!r}") for each in _list(told, "Dimensions"))
    if len(dims) > MOST_AXES or math.prod(dims) > MOST_ELEMENTS:
        raise UnreadableSchedule(f"the tensor {name!r} has more axes or elements than any has")
    place = told.get("Location", "Device")
    if place not in ("Device", "Host"):
        raise UnreadableSchedule(f"the tensor {name!r} lies in the unknown place {_short(place)}")
    kind = _type(told.get("Format/Datatype", told.get("Datatype")), name)
    return Tensor(name=name, root=name, dims=dims, type=kind, constant=False, on_host=place == "Host")


def _type(told: Any, name: str) -> str:
    """`float16` of `Half`, and of `Channel major FP16 format where channel % 8 == 0`."""
    words = re.findall("[a-z0-9]+", _text(told, f"the type of the tensor {name!r}").lower())
    found = {_TYPES[word] for word in words if word in _TYPES}
    if len(found) != 1:
        raise UnreadableSchedule(f"the tensor {name!r} is of the unknown type {told!r:.60}")
    return found.pop()


def _weights(told: Any, layer: str) -> tuple[str, int]:
    if not isinstance(told, dict):
        raise UnreadableSchedule(f"the weights of the layer {layer!r} are no object")
    count = _whole(told.get("Count"), f"the number of weights of the layer {layer!r}")
    return _type(told.get("Type"), f"weights of {layer}"), count


def _list(told: Mapping[str, Any], key: str) -> Sequence[Any]:
    found = told.get(key)
    if not isinstance(found, list):
        raise UnreadableSchedule(f"there is no list of {key}")
    return found


def _whole(told: Any, what: str) -> int:
    if isinstance(told, bool) or not isinstance(told, int) or not 0 <= told <= MOST_ELEMENTS:
        raise UnreadableSchedule(f"{what} is {_short(told)}" if told != -1 else f"{what} is not known")
    return told


def _text(told: Any, what: str) -> str:
    """Any string that a report can be written with."""
    if not isinstance(told, str) or len(told) > _LONGEST_NAME or not _encodes(told):
        raise UnreadableSchedule(f"{what} is {_short(told)}, no text")
    return told


def _short(told: Any) -> str:
    return f"{told!r:.40}" if isinstance(told, str | int | float | None) else f"a {type(told).__name__}"


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
