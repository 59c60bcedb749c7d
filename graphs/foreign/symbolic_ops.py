"""What a symbolic `dsr` op of a foreign file must say of itself before it is lowered or run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import onnx

from graphs.dsr.domain import DOMAIN, register_schemas
from graphs.dsr.limits import MOST_REGISTERS, MOST_ROUNDS

_WORDS: Mapping[str, tuple[str, ...]] = {
    "rule": ("absolute", "median", "sigma"),
    "choice": ("nearest", "gate", "mask", "clip"),
    "normal_values": ("zero", "mean", "only_outliers", "same"),
}
_RANGES: Mapping[str, tuple[int, int]] = {"rounds": (1, MOST_ROUNDS), "registers": (1, MOST_REGISTERS)}


def symbolic_problems(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    """Each op that is not known, lacks an attribute or an input, or has one of another type or beyond its limits."""
    register_schemas()
    known = {each.name: each for each in onnx.defs.get_all_schemas() if each.domain == DOMAIN}
    for node in nodes:
        if node.domain == DOMAIN:
            where = f"dsr.{node.op_type} (node '{node.name}')"
            if node.op_type not in known:
                yield f"{where} is not known"
            else:
                yield from (f"{where} {problem}" for problem in _problems(node, known[node.op_type]))


def _problems(node: onnx.NodeProto, schema: onnx.defs.OpSchema) -> Iterator[str]:
    if not schema.min_input <= len(node.input) <= schema.max_input or not all(node.input[: schema.min_input]):
        yield f"has {len(node.input)} inputs"
    given = {each.name: each for each in node.attribute}
    for name, attribute in schema.attributes.items():
        if (attribute.required or name == "neurons") and name not in given:  # the schema allows an empty list
            yield f"has no attribute '{name}'"
    for name, each in given.items():
        if name not in schema.attributes:
            yield f"has the attribute '{name}', which is not known"
        elif each.type != onnx.AttributeProto.AttributeType.Value(str(schema.attributes[name].type).rpartition(".")[2]):
            yield f"has the attribute '{name}' of another type"
        elif not _is_fine(name, onnx.helper.get_attribute_value(each)):
            yield f"has an attribute '{name}' beyond its limits"


def _is_fine(name: str, value: Any) -> bool:
    if name in _WORDS:
        return value.decode(errors="replace") in _WORDS[name]
    if name in _RANGES:
        least, most = _RANGES[name]
        return bool(least <= value <= most)
    return all(math.isfinite(each) for each in (value if isinstance(value, list | tuple) else [value]))
