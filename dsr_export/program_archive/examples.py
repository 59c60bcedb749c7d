"""The example inputs that were saved with a program: a pickle, read here without making anything but plain tensors.

Only lists, tuples, dicts, numbers, text and tensors over the file's own bytes come out. torch's own reader would fall
back to full unpickling where its restricted one fails, and believes the pickle about how long a storage is.
"""

from __future__ import annotations

import io
import pickle  # noqa: TID251 (with nothing to import, see `_Examples.find_class`)
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dsr_export.program_archive.findings import DangerousError, MalformedError
from dsr_export.program_archive.stored import Budget, checked_view
from dsr_export.storage.zip_members import Members, read_members

_MOST_PICKLE, _MOST_EXAMPLES, _MOST_VALUES, _DEEPEST = 1 << 20, 1 << 30, 10_000, 32
_TYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}


class _Stored(NamedTuple):
    dtype: torch.dtype
    key: str


class _Described(NamedTuple):
    """A tensor as the pickle says it is; a tuple, so that the pickle can't change it."""

    arguments: tuple[Any, ...]


class _Examples(pickle._Unpickler):  # C's reserves memory for any memo index it is told
    """Knows three functions of torch's, and replaces each by one that only notes its arguments."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _TYPES:
            return _TYPES[name]
        known: dict[tuple[str, str], Callable[..., Any]] = {
            ("torch._utils", "_rebuild_tensor_v2"): lambda *arguments: _Described(arguments[:4]),
            ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
            ("collections", "OrderedDict"): lambda: None,  # of hooks, which a plain tensor has none of
        }
        if (module, name) not in known:
            raise DangerousError(f"its example inputs are not plain tensors, and would be unpickled: {module}.{name}")
        return known[module, name]

    def persistent_load(self, pid: Any) -> _Stored:
        kind, dtype, key, _, _ = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(key, str):
            raise MalformedError("its example inputs hold an unknown object")
        return _Stored(dtype, key)

    def get_extension(self, code: int) -> Any:
        raise DangerousError(f"its example inputs would be unpickled: extension {code}")


def read_examples(content: bytes) -> Any:
    """The arguments `(args, kwargs)` that `torch.save` wrote to `content`.

    Raises:
        MalformedError: no such file, tensors that don't fit in their bytes.
        DangerousError: anything that would have to be imported.
    """
    members = read_members(io.BytesIO(content))
    roots = {name.partition("/")[0] for name in members.by_name}
    root = roots.pop()
    if roots or f"{root}/data.pkl" not in members.by_name:
        raise MalformedError("its example inputs are in no form that torch writes")
    if f"{root}/byteorder" in members.by_name and members.read(f"{root}/byteorder", most=8) != b"little":
        raise MalformedError("its example inputs were saved on a machine of the other byte order")
    try:
        made = _Examples(io.BytesIO(members.read(f"{root}/data.pkl", most=_MOST_PICKLE))).load()
    except (pickle.UnpicklingError, LookupError, TypeError, AttributeError, EOFError, AssertionError) as error:
        raise MalformedError(f"its example inputs can't be read: {error}") from error
    values = _Values(members, root, {}, Budget(len(content)), iter(range(_MOST_VALUES))).plain(made)
    if not (isinstance(values, tuple) and [type(each) for each in values] == [tuple, dict]):
        raise MalformedError("its example inputs are no arguments")
    return values


@dataclass
class _Values:
    members: Members
    root: str
    storages: dict[str, Tensor]
    budget: Budget
    left: Iterator[int]

    def plain(self, made: Any, depth: int = 0) -> Any:
        """`made` with tensors for what describes them. Counts: a pickle can hold a value a million times."""
        if depth > _DEEPEST or next(self.left, None) is None:
            raise MalformedError("its example inputs are nested too deeply, or too many")
        if isinstance(made, _Described):
            return self.tensor(*made.arguments)
        if type(made) in (list, tuple):
            return type(made)(self.plain(each, depth + 1) for each in made)
        if type(made) is dict and all(type(key) in (str, int) for key in made):
            return {key: self.plain(each, depth + 1) for key, each in made.items()}
        if made is None or type(made) in (bool, int, float, str):
            return made
        raise MalformedError(f"its example inputs hold a {type(made).__name__}")

    def tensor(self, storage: Any, offset: Any, sizes: Any, strides: Any) -> Tensor:
        if not isinstance(storage, _Stored) or not isinstance(sizes, tuple) or not isinstance(strides, tuple):
            raise MalformedError("its example inputs hold a damaged tensor")
        name = f"{self.root}/data/{storage.key}"
        if name not in self.members.by_name:
            raise MalformedError(f"its example inputs have no '{storage.key[:40]}'")
        if storage.key not in self.storages:
            content = bytearray(self.members.read(name, most=_MOST_EXAMPLES))
            self.storages[storage.key] = _elements(content, storage.dtype)
        if self.storages[storage.key].dtype != storage.dtype:
            raise MalformedError("its example inputs read one storage as two types")
        view = checked_view(self.storages[storage.key], sizes, strides, offset)
        self.budget.take(view)
        return view


def _elements(content: bytearray, dtype: torch.dtype) -> Tensor:
    if len(content) % dtype.itemsize:
        raise MalformedError("its example inputs hold a damaged storage")
    return torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
