"""Damage inside a file's format: values of another type or size, arrays that lie, graphs that make no sense."""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

Array = npt.NDArray[Any]
BOMB = 300 << 20  # bytes of zeros: little more than a megabyte when packed
_WRONG: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**31, 2**63, 2**64 - 1, 1e308, -1e308, 1e-320, 0.5, "", "x", "../x", "x" * 5000),
    *([], {}, [[]], [None], {"x": 1}, [0] * 5000, "\u0000"),
)
_SIZES = (0, -1, 1, 7, 2**31 - 1, 2**40, 2**62)
_PLACES = ("../outside.bin", "/etc/passwd", "report.html", "nowhere.data", "components/decoder/model.onnx", "")


def damaged_value(rng: random.Random, value: Any) -> None:
    """One place of a manifest, its digests and files aside, gets another value, another key, or goes."""
    damaged_json(rng, value, without=("files", "components", "schema_version"))


def damaged_json(rng: random.Random, value: Any, without: tuple[str, ...] = ()) -> None:
    """One place of a JSON value, in its place."""
    # one place of any depth, not of any leaf: a long list would otherwise hide all the rest
    holder = {key: item for key, item in value.items() if key not in without}
    key = rng.choice(sorted(holder))
    holder = value
    while rng.random() < 0.7 and isinstance(holder[key], dict | list) and holder[key]:
        holder = holder[key]
        key = rng.choice(sorted(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
    action = rng.random()
    if action < 0.7:
        holder[key] = rng.choice(
            [wrong for wrong in _WRONG if wrong != holder[key] or type(wrong) is not type(holder[key])]
        )
    elif action < 0.9 or not isinstance(holder, dict):
        del holder[key]
    else:
        holder["unheard-of"] = holder[key]


def damaged_npz(rng: random.Random, path: Path) -> None:
    """One array is missing, has another name, shape, type or values, or is no array at all."""
    with np.load(path) as loaded:
        arrays = {name: loaded[name] for name in loaded.files}
    name = rng.choice(sorted(arrays))
    array = arrays.pop(name)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for kept, other in arrays.items():
            archive.writestr(f"{kept}.npy", _npy(other))
        for new, data in _members(rng, name, array):
            with archive.open(new, "w") as member:
                for chunk in data:
                    member.write(chunk)
    path.write_bytes(stream.getvalue())


def _members(rng: random.Random, name: str, array: Array) -> Iterator[tuple[str, Iterable[bytes]]]:
    """What stands in place of the array."""
    same = f"{name}.npy"
    match rng.randrange(9):
        case 0:
            return
        case 1:
            yield f"{rng.choice(_names(name))}.npy", [_npy(array)]
        case 2:
            yield same, [_npy(rng.choice(_shapes(array)))]
        case 3:
            yield same, [_npy(array.astype(rng.choice(("f8", "f2", "i4", "u1", "c8", "?", ">f4"))))]
        case 4:
            yield same, [_npy(np.full_like(array, rng.choice((0, 1, 127) if array.dtype.kind in "iu" else (0, 1e38))))]
        case 5:
            yield same, [_npy(np.array([{"x": 1}, None], dtype=object))]
        case 6:
            yield same, [_npy(array).replace(b"'shape': (", b"'shape': (9999999, ", 1)]
        case 7:
            yield same, _bomb()
        case 8:
            yield f"../{name}", [b"escaped"]


def _bomb() -> Iterator[bytes]:
    """In pieces, so that the memory it takes is that of who unpacks it."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": (BOMB // 4,)})
    yield stream.getvalue()
    yield from [bytes(1 << 20)] * (BOMB >> 20)


def _names(name: str) -> list[str]:
    return ["", "batch", "batchx/in/x", "batch-1/in/x", "batch999999999/in/x", "trajectory/x", "reference", f"{name}/x"]


def _shapes(array: Array) -> list[Array]:
    return [
        array[None],
        array.ravel(),
        array[:0],
        array.reshape(-1)[0],
        array.T,
        np.concatenate([array, array]) if array.ndim else array[None],
    ]


def _npy(array: Array) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asarray(array), allow_pickle=True)
    return stream.getvalue()


def damaged_model(rng: random.Random, path: Path) -> None:
    """One tensor or node of the graph says something else."""
    model = onnx.load(path, load_external_data=False)
    (_damage_tensor if rng.random() < 0.5 else _damage_node)(rng, model)
    path.write_bytes(model.SerializeToString())


def _damage_tensor(rng: random.Random, model: onnx.ModelProto) -> None:
    tensor = rng.choice(model.graph.initializer)
    match rng.randrange(6):
        case 0 if tensor.dims:
            tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(_SIZES)
        case 0 | 1:
            tensor.dims.append(rng.choice(_SIZES))
        case 2:
            tensor.data_type = rng.choice((0, 7, 8, 16, 23, 99, 2**31 - 1))
        case 3:
            tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data) + 1)] + b"\xff"
        case 4:
            tensor.name = rng.choice(("", "x", "out", "nowhere"))
        case 5:
            tensor.ClearField("raw_data")
            tensor.data_location = tensor.EXTERNAL
            tensor.external_data.add(key="location", value=rng.choice(_PLACES))
            tensor.external_data.add(key="length", value=rng.choice(("4", "-1", "9" * 19, "x")))


def _damage_node(rng: random.Random, model: onnx.ModelProto) -> None:
    graph = model.graph
    node = rng.choice(graph.node)
    match rng.randrange(8):
        case 0:
            graph.node.remove(node)
        case 1:
            node.op_type = rng.choice(("", "Nothing", "Expand", "Tile", "Loop", "Sin", "Add"))
        case 2:
            node.domain = rng.choice(("evil", "dsr", "com.microsoft"))
        case 3 if node.input:
            node.input[rng.randrange(len(node.input))] = rng.choice(("", "nowhere", node.output[0], "x", "y"))
        case 3 | 4:
            model.opset_import[0].version = rng.choice((-1, 0, 1, 99, 2**62))
        case 5:
            graph.output[0].name = rng.choice(("", "x", "nowhere", node.output[0]))
        case 6:
            graph.input[0].type.tensor_type.elem_type = rng.choice((0, 7, 11, 99))
        case 7:
            node.attribute.add(name=rng.choice(("axis", "to", "x")), type=2, i=rng.choice(_SIZES))
