"""Constant nodes, whichever of their attributes holds the value: afterwards it is always `value`, a tensor."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import helper, numpy_helper

from graphs.errors import ExportError

_PLAIN = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}


def spell_out_constants(nodes: Iterable[onnx.NodeProto]) -> None:
    """Gives every Constant among `nodes` the attribute `value`, in place.

    Raises:
        ExportError: one without exactly one value or output, or with a sparse one or text.
    """
    for node in nodes:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            _spell_out(node)


def _spell_out(node: onnx.NodeProto) -> None:
    where = f"Constant (node '{node.name or 'that makes ' + ', '.join(node.output)}')"
    if len(node.attribute) != 1 or len(node.output) != 1:
        raise ExportError(f"{where} has {len(node.attribute)} values, where it takes one", hint="export it again")
    (attribute,) = node.attribute
    if attribute.name == "value" and attribute.HasField("t"):
        return
    if attribute.name not in _PLAIN:
        raise ExportError(f"{where} holds its value as '{attribute.name}'", hint="export it again with dense numbers")
    values = np.asarray(helper.get_attribute_value(attribute), _PLAIN[attribute.name])
    node.attribute[0].CopyFrom(helper.make_attribute("value", numpy_helper.from_array(values)))
