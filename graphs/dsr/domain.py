"""Schemas of the symbolic `dsr` ONNX domain, version 1, so that onnx can check and infer traced graphs."""

from __future__ import annotations

import functools

import onnx
from onnx.defs import OpSchema

DOMAIN = "dsr"
VERSION = 1
_FLOATS = ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"]
_OPTIONAL = OpSchema.FormalParameterOption.Optional


@functools.cache
def register_schemas() -> None:
    """Makes `dsr.ReplaceOutliers` and `dsr.ShiftRegisterNeurons` known to onnx, once a process."""
    known = {(schema.domain, schema.name) for schema in onnx.defs.get_all_schemas()}
    for schema in (_replace_outliers(), _shift_register_neurons()):
        if (schema.domain, schema.name) not in known:
            onnx.defs.register_schema(schema)


def _replace_outliers() -> OpSchema:
    gate = [
        OpSchema.FormalParameter(n, "T", param_option=_OPTIONAL) for n in ("choice_weight", "gate_weight", "gate_bias")
    ]
    return _schema(
        "ReplaceOutliers",
        [OpSchema.FormalParameter("x", "T"), OpSchema.FormalParameter("registers", "T"), *gate],
        {"rule": "STRING", "threshold": "FLOAT", "rounds": "INT", "choice": "STRING", "exclude": "INTS"},
    )


def _shift_register_neurons() -> OpSchema:
    return _schema(
        "ShiftRegisterNeurons",
        [OpSchema.FormalParameter("a", "T")],
        {"neurons": "INTS", "registers": "INT", "scale": "FLOATS", "normal_values": "STRING"},
    )


def _schema(name: str, inputs: list[OpSchema.FormalParameter], attributes: dict[str, str]) -> OpSchema:
    return OpSchema(
        name,
        DOMAIN,
        VERSION,
        inputs=inputs,
        outputs=[OpSchema.FormalParameter("out", "T")],
        type_constraints=[("T", _FLOATS, "floating point")],
        attributes=[
            OpSchema.Attribute(key, getattr(OpSchema.AttrType, kind), "", required=kind not in ("INTS",))
            for key, kind in attributes.items()
        ],
    )
