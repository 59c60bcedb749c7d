"""Weights and constants of an archive: raw bytes, which its two payload tables cut into tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch._export.serde import schema
from torch._export.serde.serialize import deserialize_scalar_type

from dsr_export.program_archive.findings import MalformedError
from dsr_export.program_archive.form import parsed, shaped
from dsr_export.program_archive.stored import Budget, checked_view
from dsr_export.storage.zip_members import Members

_MOST_JSON = 64 << 20


def read_payloads(members: Members, root: str, folder: str, stem: str) -> dict[str, Tensor]:
    """Name -> tensor, of `folder`'s table and the files `<stem><k>` beside it; those that share a file share memory.

    Raises:
        MalformedError: a table that isn't one, a tensor that doesn't fit in its file, a damaged file.
        DangerousError: a tensor to unpickle.
    """
    table = f"{root}/data/{folder}/model_{folder}_config.json"
    if table not in members.by_name:
        raise MalformedError(f"it has no {folder}")
    entries = shaped(parsed(members.read(table, most=_MOST_JSON)), schema.PayloadConfig)["config"]
    files: dict[str, Tensor] = {}
    return _tensors(members, f"{root}/data/{folder}/", stem, entries, files)


def _tensors(
    members: Members, folder: str, stem: str, entries: dict[str, Any], files: dict[str, Tensor]
) -> dict[str, Tensor]:
    named = {entry["path_name"] for entry in entries.values()}
    missing = [name for name in named if not name.startswith(stem) or folder + name not in members.by_name]
    if missing:
        raise MalformedError(f"it has no file '{missing[0][:80]}'")
    budget = Budget(sum(members.by_name[folder + name][0].size for name in named))
    tensors = {}
    for name, entry in entries.items():
        meta, path = entry["tensor_meta"], entry["path_name"]
        if meta is None:
            raise MalformedError(f"'{name[:80]}' is no tensor")
        dtype = _dtype(meta["dtype"])
        if path not in files:
            files[path] = _flat(members, folder + path, dtype)
        if files[path].dtype != dtype or meta["layout"] != schema.Layout.Strided:
            raise MalformedError(f"'{name[:80]}' is no plain tensor, or shares a file with one of another type")
        (offset,) = _numbers([meta["storage_offset"]])
        view = checked_view(files[path], _numbers(meta["sizes"]), _numbers(meta["strides"]), offset)
        budget.take(view)
        tensors[name] = nn.Parameter(view, requires_grad=meta["requires_grad"]) if entry["is_param"] else view
    return tensors


def _dtype(code: int) -> torch.dtype:
    try:
        dtype: torch.dtype = deserialize_scalar_type(schema.ScalarType(code))
    except KeyError as error:
        raise MalformedError(f"a tensor has the type {code}, which torch does not know") from error
    return dtype


def _numbers(values: list[dict[str, Any]]) -> list[int]:
    if not all("as_int" in value for value in values):
        raise MalformedError("a stored tensor has sizes that are no numbers")
    return [value["as_int"] for value in values]


def _flat(members: Members, name: str, dtype: torch.dtype) -> Tensor:
    """The whole member as elements of `dtype`: read once, into the memory that the tensors keep."""
    size = members.by_name[name][0].size
    if size % dtype.itemsize:
        raise MalformedError(f"'{name}' has {size} bytes, no whole number of elements")
    content = torch.empty(size, dtype=torch.uint8)
    members.read_into(name, content.numpy().data)
    return content.view(dtype)
