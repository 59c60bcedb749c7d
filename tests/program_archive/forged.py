"""A small honest `.pt2`, and archives made from its members: what the attacks are built of."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Members = dict[str, bytes]
Change = Callable[[Members], Any]
BATCH = torch.export.Dim("batch", min=1, max=64)
EXAMPLE = (torch.linspace(-1, 1, 2 * 3 * 4).reshape(2, 3, 4),)


class Small(nn.Module):
    """[B, 3, 4] -> [B, 12], with shapes that are computed."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(4, 4)
        self.register_buffer("shift", torch.ones(4), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (self.linear(x) + self.shift).reshape(x.shape[0], -1)


@cache
def honest() -> bytes:
    """The archive that `torch.export.save` writes."""
    stream = io.BytesIO()
    torch.export.save(torch.export.export(Small().eval(), EXAMPLE, dynamic_shapes=({0: BATCH},)), stream)
    return stream.getvalue()


def members_of(archive: bytes) -> Members:
    """Name below the root -> content."""
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return {name.partition("/")[2]: opened.read(name) for name in opened.namelist()}


def zipped(members: Members, *, method: int = zipfile.ZIP_STORED) -> bytes:
    """An archive of `members` below the root 'm'."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(f"m/{name}", content)
    return stream.getvalue()


def forged(path: Path, change: Change) -> Path:
    """Writes the honest archive with its members changed."""
    members = members_of(honest())
    change(members)
    path.write_bytes(zipped(members))
    return path


def in_json(name: str, change: Callable[[Any], Any]) -> Change:
    """A change of the value in one JSON member."""

    def apply(members: Members) -> None:
        content = json.loads(members[name])
        change(content)
        members[name] = json.dumps(content).encode()

    return apply


def in_model(change: Callable[[Any], Any]) -> Change:
    """A change of the program."""
    return in_json("models/model.json", change)


def in_graph(change: Callable[[Any], Any]) -> Change:
    """A change of its graph."""
    return in_model(lambda content: change(content["graph_module"]["graph"]))


def in_weight(change: Callable[[Any], Any]) -> Change:
    """A change of the entry of the first weight."""
    name = "data/weights/model_weights_config.json"
    return in_json(name, lambda content: change(content["config"]["linear.weight"]))


def in_expression(text: str) -> Change:
    """A change of the size of `x`'s first axis."""
    return in_graph(lambda graph: graph["tensor_values"]["x"]["sizes"][0]["as_expr"].update(expr_str=text))


def node(target: str, name: str, /, **inputs: Any) -> dict[str, Any]:
    """A node as the schema has it, with one tensor for its result; `dtype` is a keyword, as in torch's schemas."""
    return {
        "target": target,
        "name": name,
        "inputs": [{"name": key, "arg": value, "kind": 2 if key == "dtype" else 1} for key, value in inputs.items()],
        "outputs": [{"as_tensor": {"name": name}}],
        "metadata": {},
        "is_hop_single_tensor_return": None,
    }


def in_front(*nodes: dict[str, Any]) -> Change:
    """Nodes that run before all others; their results are said to be like `x`."""

    def apply(graph: Any) -> None:
        graph["nodes"][:0] = nodes
        for each in nodes:
            graph["tensor_values"][each["name"]] = graph["tensor_values"]["x"]

    return in_graph(apply)


def two_directories(shown: bytes, hidden: bytes) -> bytes:
    """One file that Python's zipfile reads as `shown`, and a reader that believes the end record's offset as `hidden`.

    Both directories must have the same length. zipfile takes the one that ends at the end record, and corrects the
    offsets in it by as much as the end record's own is wrong.
    """
    (first, first_entries), (second, second_entries) = (_parts(each) for each in (hidden, shown))
    assert len(first_entries) == len(second_entries)
    assert len(first) >= len(second), "the corrected offsets must not be negative"
    moved = bytearray(second_entries)
    at = 0
    while at < len(moved):
        (offset,) = struct.unpack_from("<L", moved, at + 42)
        struct.pack_into("<L", moved, at + 42, offset + len(first) - len(second))
        at += 46 + sum(struct.unpack_from("<3H", moved, at + 28))
    count = struct.unpack_from("<H", shown, len(shown) - 12)[0]
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(moved), len(first), 0)
    return first + first_entries + second + bytes(moved) + end


def _parts(archive: bytes) -> tuple[bytes, bytes]:
    """Members, and the directory."""
    length, start = struct.unpack_from("<2L", archive, len(archive) - 10)
    return archive[:start], archive[start : start + length]
