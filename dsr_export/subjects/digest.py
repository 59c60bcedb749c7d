"""What identifies a module whose code alone does not: a digest of its weights, buffers and settings."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Mapping
from itertools import chain
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from dsr_export.subject import Subject

_ATOMS = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, np.generic, np.dtype)
_PLAIN_TENSORS = (torch.Tensor, nn.Parameter, nn.Buffer)


def content_digest(subject: Subject) -> str:
    """sha256 over everything about the module that can change while its code does not.

    Weights, buffers and settings, wherever they hang: in plain attributes, in dictionaries, in closures. Each object
    counts once, so that a circle ends.
    """
    digest, seen, waiting = hashlib.sha256(), dict[int, Any](), [vars(subject), subject.example(2, seed=0)]
    while waiting:
        value = waiting.pop()
        digest.update(f"{type(value).__module__}.{type(value).__qualname__}\n".encode())
        if isinstance(value, _ATOMS):
            digest.update(f"{value!r}\n".encode())
        elif isinstance(value, torch.Tensor | np.ndarray):
            digest.update(f"{value.dtype} {list(value.shape)}\n".encode())
            digest.update(_bytes_of(value))
        elif id(value) not in seen:
            seen[id(value)] = value  # held, so that no other object gets its id
            inside = list(_inside(value))
            digest.update(b"%d\n" % len(inside))
            waiting += reversed(inside)
    return digest.hexdigest()


def _bytes_of(value: Any) -> Any:
    """A buffer of the values; of arrays without one of their own (of objects, sparse, fake), what they print."""
    if isinstance(value, np.ndarray):
        return repr(value.tolist()).encode() if value.dtype.hasobject else value.tobytes()
    if type(value) not in _PLAIN_TENSORS or value.layout is not torch.strided or value.device.type != "cpu":
        return repr(value).encode()
    plain = value.detach().resolve_conj().resolve_neg()
    return (torch.view_as_real(plain) if plain.is_complex() else plain).reshape(-1).view(torch.uint8).numpy().data


def _inside(value: Any) -> Iterator[Any]:
    """What the value is made of, in an order that is the same in every process."""
    if isinstance(value, Mapping):
        yield from chain.from_iterable(value.items())
    elif isinstance(value, list | tuple):
        yield from value
    elif isinstance(value, set | frozenset):
        yield from sorted(repr(each) for each in value if isinstance(each, _ATOMS))
    elif isinstance(value, FunctionType):
        yield from (value.__qualname__, value.__code__, value.__defaults__, value.__kwdefaults__)
        yield from _bound(value)
    elif isinstance(value, MethodType):
        yield from (value.__func__, value.__self__)
    elif isinstance(value, functools.partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, CodeType):
        yield from (value.co_code, value.co_names, value.co_consts)
    elif isinstance(value, type | ModuleType):
        yield value.__name__  # its contents are code, which has a digest of its own
    elif isinstance(value, fx.Graph):
        yield str(value)
    else:
        yield from _attributes(value)


def _bound(function: FunctionType) -> Iterator[Any]:
    """What a function has taken from around it."""
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not there yet
            yield None


def _attributes(value: Any) -> Iterator[Any]:
    """Fields and attributes by name; hooks without the numbers that torch counts them by."""
    fields = dataclasses.fields(value) if dataclasses.is_dataclass(value) else ()
    held = {field.name: getattr(value, field.name) for field in fields} | dict(getattr(value, "__dict__", {}))
    for name, each in sorted(held.items()):
        hooks = isinstance(each, dict) and "_hooks" in name
        yield from (name, list(each.values()) if hooks else each)
