"""What a checkpoint holds, as one table of tensors: nested mappings and dotted names come to the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dsr_export.checkpoints.names import without_inner
from dsr_export.errors import ExportError

StateDict = dict[str, Tensor]
DEEPEST = 8  # mappings in mappings; trainers' files have up to five
MOST_AXES = 16
SHARED = 4  # how often a byte of a file may be used, by weights that are tied
MOST_VISITS = 200_000  # of mappings and of their entries, each as often as it is referred to
EXPANDED = 2**26  # bytes that a tensor may claim beyond what is stored of it
LONGEST_NAME = 80  # of what an error repeats


@dataclass(frozen=True)
class Wanted:
    """By which names a model's weights are known: all of them where `complete`, else a few that tell.

    `parameters` are those that are trained, in the module's order, where it is known. `holders` are entries that may
    hold them in this family, beside those of all trainers.
    """

    names: tuple[str, ...]
    complete: bool = False
    parameters: tuple[str, ...] = ()
    holders: tuple[str, ...] = ()


@dataclass
class Contents:
    """`tensors` by full name (`ema.blocks.0.weight`), the table each stands in, and `lists` of tensors without names.

    `roots` are the keys of the outermost mapping; `inner` the wrappers taken off all names.
    """

    tensors: StateDict = field(default_factory=dict)
    table_of: dict[str, str] = field(default_factory=dict)
    lists: dict[str, list[Tensor]] = field(default_factory=dict)
    roots: tuple[str, ...] = ()
    inner: set[str] = field(default_factory=set)

    def tables(self) -> list[str]:
        """Prefixes of the mappings that hold tensors themselves."""
        return list(dict.fromkeys(self.table_of.values()))


def contents_of(path: Path, content: Any, aliases: Mapping[str, str]) -> Contents:
    """The tensors in `content`. Raises ExportError where a file is nested without end, or two tensors share a name."""
    found = Contents()
    if isinstance(content, Mapping):
        found.roots = tuple(key if isinstance(key, str) else type(key).__name__ for key in content)
        entries = list(_walk(path, content, "", frozenset(), iter(range(MOST_VISITS))))  # counted before it is used
        for table, name, value in entries:
            _add(path, found, table, name, value)
    for alias, name in aliases.items():
        _add(path, found, "", alias, content[name])
    return found


def check_plain(path: Path, name: str, tensor: Tensor) -> Tensor:
    """The tensor itself, dense and in memory; ExportError for any other kind."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_nested:
        raise ExportError(f"{path}: tensor '{name}' is not a plain dense tensor", hint="save it in float32")
    if tensor.ndim > MOST_AXES:
        raise ExportError(f"{path}: tensor '{name}' has {tensor.ndim} axes, more than {MOST_AXES}", hint="reshape it")
    claimed = tensor.numel() * tensor.element_size()
    if claimed > tensor.untyped_storage().nbytes() + EXPANDED:
        raise ExportError(f"{path}: tensor '{name}' repeats few values to {claimed} bytes", hint="save it contiguous")
    return tensor.detach()


def check_total(path: Path, state: StateDict) -> None:
    """Raises ExportError where tensors together claim far more than the file holds: each may repeat a few values."""
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    held = path.stat().st_size
    if claimed > SHARED * held + EXPANDED:
        raise ExportError(f"{path} has {held} bytes, and its tensors claim {claimed}", hint="save them contiguous")


def _walk(
    path: Path, content: Mapping[Any, Any], table: str, above: frozenset[int], visits: Iterator[int]
) -> Iterator[tuple[str, str, Tensor | list[Tensor]]]:
    if id(content) in above or len(above) >= DEEPEST:
        raise ExportError(
            f"{path} is nested without end at '{table[:LONGEST_NAME]}'", hint="save the model's state_dict() alone"
        )
    for key, value in content.items():
        _count(path, 1, visits)
        if not isinstance(key, str):
            continue  # an optimizer's
        _count(path, (len(table) + len(key)) // LONGEST_NAME, visits)  # names are put together
        if isinstance(value, Tensor):
            yield table, key, value
        elif isinstance(value, Mapping):
            yield from _walk(path, value, f"{table}{key}.", above | {id(content)}, visits)
        elif isinstance(value, list | tuple) and value and isinstance(value[0], Tensor):
            _count(path, len(value), visits)
            if all(isinstance(each, Tensor) for each in value):
                yield table, key, list(value)


def _count(path: Path, more: int, visits: Iterator[int]) -> None:
    """The same mapping may be referred to from everywhere, so that a small file unfolds without end."""
    if sum(1 for _ in islice(visits, more)) < more:
        raise ExportError(f"{path} unfolds to more than {MOST_VISITS} entries", hint="save the model's state_dict()")


def _add(path: Path, found: Contents, table: str, name: str, value: Tensor | list[Tensor]) -> None:
    full = without_inner(table + name)
    found.inner |= {part for part in (table + name).split(".") if part not in full.split(".")}
    for each in value if isinstance(value, list) else [value]:
        check_plain(path, full[:LONGEST_NAME], each)  # the rest looks at shapes, which others have none of
    if isinstance(value, list):
        found.lists[full] = value
        return
    if full in found.tensors:
        raise ExportError(f"{path} holds two tensors called '{full}'", hint="save the model's state_dict() alone")
    found.tensors[full] = value
    found.table_of[full] = without_inner(table) if table else ""
