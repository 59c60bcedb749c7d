"""ONNX files with fields or bytes changed at random; `DSR_EXPORT_FUZZ` sets how many."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from dsr_export.bundle.inspection import inspect_onnx
from dsr_export.errors import ExportError
from graphs.foreign.brought_in import adapt, foreign_inputs, read_foreign
from graphs.foreign.index_bounds import index_bounds
from tests.sources.onnx_text import onnx_model

COUNT = int(os.environ.get("DSR_EXPORT_FUZZ", "40"))


def _good() -> onnx.ModelProto:
    model = onnx_model(
        "s = Constant<value_ints=[-1, 4]>() h = MatMul(x, w) r = Reshape(h, s) f = mine.F(r) out = Relu(f)",
        after='<opset_import: ["": 20], domain: "mine"> F (x) => (y) { y = Tanh(x) }',
    )
    model.graph.initializer.append(numpy_helper.from_array(np.eye(4, dtype=np.float32), "w"))
    return model


def _messages(message: Any) -> Iterator[Any]:
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if _repeated(value) else [value]:
                yield from _messages(inner)


def _repeated(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _odd(field: Any, rng: random.Random) -> Any:
    """A value of the field's type that a file could hold."""
    if field.message_type is not None:
        return None
    if field.cpp_type == field.CPPTYPE_STRING:
        text = rng.choice(["", "x", "w", "nowhere", "\x1b[2J", "n" * 5000, "value_ints", "If", "NonZero"])
        return text.encode() if field.type == field.TYPE_BYTES else text
    if field.cpp_type == field.CPPTYPE_ENUM:
        return rng.choice(field.enum_type.values).number
    if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return rng.choice([0.0, -1.0, 1e30])
    if field.cpp_type == field.CPPTYPE_UINT64:
        return rng.choice([0, 3, 2**63])
    return rng.choice([-1, 0, 1, 3, 7, 99, 2**31 - 1, *([2**40, -(2**62)] if field.type == field.TYPE_INT64 else [])])


def _mutate_field(model: onnx.ModelProto, rng: random.Random) -> None:
    """Sets, clears, repeats or reverses one field of one message within `model`."""
    message = rng.choice(list(_messages(model)))
    field = rng.choice(message.DESCRIPTOR.fields)
    held = getattr(message, field.name)
    repeated = _repeated(held)
    value = _odd(field, rng)
    kind = rng.randrange(3)
    if kind == 0:
        message.ClearField(field.name)
    elif repeated and kind == 1 and len(held):
        held.append(held[rng.randrange(len(held))])
    elif repeated and value is not None:
        held.append(value)
    elif repeated:
        held.add()
    elif value is not None:
        setattr(message, field.name, value)
    else:
        held.SetInParent()


def _mutated(seed: int) -> bytes:
    """The good model with one to three fields changed; every fourth with bytes changed, cut off, doubled or put in."""
    rng = random.Random(seed)
    model = _good()
    if seed % 4:
        for _ in range(rng.randint(1, 3)):
            _mutate_field(model, rng)
        return model.SerializeToString()
    data = bytearray(model.SerializeToString())
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data))
        kind = rng.randrange(4)
        if kind == 0:
            data[at] = rng.randrange(256)
        elif kind == 1:
            data[at : at + rng.randint(1, 9)] = b""
        elif kind == 2:
            data[at:at] = data[at : at + rng.randint(1, 40)]
        else:
            data[at:at] = rng.randbytes(rng.randint(1, 9))
        if not data:
            return b""
    return bytes(data)


def test_fuzzed_files_are_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    read, hints = 0, []
    for seed in range(COUNT):
        path.write_bytes(_mutated(seed))
        try:
            model = read_foreign(path)
            foreign_inputs(model), index_bounds(model), adapt(model)
            read += 1
        except ExportError as error:
            hints.append(error.hint)
        with contextlib.suppress(ExportError):
            inspect_onnx(path)
    assert read + len(hints) == COUNT
    assert hints
    assert all(hints)
