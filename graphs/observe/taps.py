"""Taps: a copy of a graph that also outputs a small sample of some of its tensors, whatever their type.

Two outputs per tensor, as in `Sample`: `dsr_tap_<i>_values` and `dsr_tap_<i>_norms`, both FP32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from graphs.observe.sites import Site
from graphs.observe.tap_samples import Layout
from graphs.precisions import HELD

_FLOATS = frozenset({*HELD, TensorProto.DOUBLE})
UNUSED = "nothing that reaches the outputs reads it"
ABSENT = "the graph does not make it"


@dataclass(frozen=True)
class Tap:
    """A site, and how many channels its sample keeps."""

    site: Site
    channels: int


@dataclass(frozen=True)
class TappedModel:
    """`outputs`: place of a tap -> its two outputs. `lost`: place -> why the graph has no such tensor to look at."""

    model: onnx.ModelProto
    outputs: dict[int, tuple[str, str]]
    lost: dict[int, str]


def add_taps(model: onnx.ModelProto, taps: Sequence[Tap]) -> TappedModel:
    """A tapped copy of `model`, whose weights may be absent. What it computes stays as it was."""
    typed = _types(model)
    live = _live(model.graph)
    outputs: dict[int, tuple[str, str]] = {}
    lost: dict[int, str] = {}
    made: dict[str, list[onnx.NodeProto]] = {}
    for i, tap in enumerate(taps):
        reason = _lost(tap.site, typed, live)
        if reason is None:
            outputs[i] = (f"dsr_tap_{i}_values", f"dsr_tap_{i}_norms")
            made.setdefault(tap.site.tensor, []).extend(_nodes(tap, f"dsr_tap_{i}"))
        else:
            lost[i] = reason
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    del tapped.graph.node[:]
    for node in model.graph.node:  # next to what they read, so that a runtime need not keep it
        tapped.graph.node.append(node)
        for name in node.output:
            tapped.graph.node.extend(made.get(name, ()))
    tapped.graph.initializer.extend(_constants(taps, outputs))
    for i, names in outputs.items():
        tapped.graph.output.extend(_declared(names, taps[i], _batch(model.graph)))
    return TappedModel(tapped, outputs, lost)


def _nodes(tap: Tap, stem: str) -> Iterator[onnx.NodeProto]:
    """Cast, order of axes, [batch, tokens, channels]; then the sample, and the norms of all tokens."""
    layout = Layout.of((1, *tap.site.shape))
    yield helper.make_node("Cast", [tap.site.tensor], [f"{stem}/float"], f"{stem}/float", to=TensorProto.FLOAT)
    order = list(layout.order)
    yield helper.make_node("Transpose", [f"{stem}/float"], [f"{stem}/order"], f"{stem}/order", perm=order)
    yield helper.make_node("Reshape", [f"{stem}/order", f"{stem}/shape"], [f"{stem}/tokens"], f"{stem}/tokens")
    yield helper.make_node("Gather", [f"{stem}/tokens", f"{stem}/rows"], [f"{stem}/kept"], f"{stem}/kept", axis=1)
    yield helper.make_node("Gather", [f"{stem}/kept", f"{stem}/channels"], [f"{stem}_values"], f"{stem}/values", axis=2)
    yield helper.make_node(
        "ReduceL2", [f"{stem}/tokens", f"{stem}/last"], [f"{stem}_norms"], f"{stem}/norms", keepdims=0
    )


def _declared(names: tuple[str, str], tap: Tap, batch: str | int) -> Iterator[onnx.ValueInfoProto]:
    layout = Layout.of((1, *tap.site.shape))
    shapes = [batch, len(layout.token_rows()), tap.channels], [batch, layout.tokens]
    for name, shape in zip(names, shapes, strict=True):
        yield helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _batch(graph: onnx.GraphProto) -> str | int:
    """The first axis of the inputs, as they call it."""
    axis = graph.input[0].type.tensor_type.shape.dim[0]
    return str(axis.dim_param) or int(axis.dim_value)


def _constants(taps: Sequence[Tap], outputs: dict[int, tuple[str, str]]) -> Iterator[onnx.TensorProto]:
    for i in outputs:
        layout = Layout.of((1, *taps[i].site.shape))
        values = {
            "shape": np.array([0, layout.tokens, layout.channels]),
            "rows": layout.token_rows(),
            "channels": layout.channel_rows(taps[i].channels),
            "last": np.array([2]),
        }
        for name, array in values.items():
            yield numpy_helper.from_array(np.ascontiguousarray(array, np.int64), f"dsr_tap_{i}/{name}")


def _types(model: onnx.ModelProto) -> dict[str, onnx.TypeProto.Tensor]:
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = [*inferred.value_info, *inferred.output, *inferred.input]
    return {value.name: value.type.tensor_type for value in values}


def _live(graph: onnx.GraphProto) -> set[str]:
    """Tensors that an output depends on."""
    live = {value.name for value in graph.output}
    for node in reversed(graph.node):
        if live.intersection(node.output):
            live.update(node.input)
    return live


def _lost(site: Site, typed: dict[str, onnx.TypeProto.Tensor], live: set[str]) -> str | None:
    found = typed.get(site.tensor)
    if found is None or found.elem_type not in _FLOATS:
        return ABSENT
    if site.tensor not in live:
        return UNUSED
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in found.shape.dim)
    if len(shape) != len(site.shape) + 1 or any(a not in (None, b) for a, b in zip(shape[1:], site.shape, strict=True)):
        return f"its shape is {list(shape[1:])}, expected {list(site.shape)}"
    return None
