"""Reads one file of weights: safetensors or torch's own, told apart by content, whatever the name ends in.

The one place that opens such files: everything behind it sees plain mappings, lists and tensors.
"""

from __future__ import annotations

import argparse
import pickle  # noqa: TID251 (for its exception; nothing is unpickled here)
import re
import struct
import tarfile
import warnings
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from dsr_export.checkpoints.stored_types import LARGEST_HEADER
from dsr_export.checkpoints.torch_zip import LARGEST_PICKLE, check_archive, check_legacy, is_zip, member_names
from dsr_export.errors import ExportError, did_you_mean

BROKEN = "copy or download it again"
_CONVERT = "convert it where you trust it: safetensors.torch.save_file(state_dict, 'model.safetensors')"
_REFUSED = re.compile(r"(Unsupported|Trying to|Can only)[^\n]*?(?=\. |\n|$)")  # how torch's weights-only reader refuses
_OTHERS: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "run: git lfs pull"),
    (b"GGUF", "a GGUF file, whose weights are quantised", "use the safetensors or .pt it was made from"),
    (b"\x89HDF", "an HDF5 file", "save the model's state_dict() with torch.save or safetensors"),
    (b"\x1f\x8b", "gzip-compressed", "unpack it first"),
    (b"\x93NUMPY", "a NumPy file", "save the model's state_dict() with torch.save or safetensors"),
    (b"<!DOCTYPE", "a web page, not a checkpoint", "the download failed: download it again"),
    (b"<html", "a web page, not a checkpoint", "the download failed: download it again"),
)
"""First bytes -> what the file is, and what to do about it."""


def read_file(path: Path) -> tuple[Any, dict[str, str]]:
    """What the file holds, and the names that stand for other tensors of it (alias -> the name that is stored).

    Raises ExportError for a file that is missing, empty, damaged, of another kind, or that would execute code.
    """
    return _read_safetensors(path) if _is_safetensors(path) else (_read_torch(path), {})


def check_readable(path: Path) -> None:
    """Raises ExportError as `read_file` for all that a file's first bytes and its header tell: no tensor is read."""
    if _is_safetensors(path):
        _check_header(path)
    elif is_zip(path):
        check_archive(path)


def _is_safetensors(path: Path) -> bool:
    """Raises ExportError for what is neither that nor torch's."""
    _check_file(path)
    with path.open("rb") as stream:
        head = stream.read(16)
    _refuse_others(path, head)
    known_torch = head.startswith((b"PK", b"\x80"))
    return head[8:9] == b"{" or (path.suffix == ".safetensors" and not known_torch)  # behind a JSON header's length


def _check_file(path: Path) -> None:
    if not path.exists():
        siblings = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        raise ExportError(f"no such checkpoint: {path}", hint=did_you_mean(path.name, siblings) or "check the path")
    if not path.is_file():
        raise ExportError(f"{path} is not a file", hint="give the checkpoint file inside it")
    if path.stat().st_size == 0:
        raise ExportError(f"{path} is empty", hint=BROKEN)


def _refuse_others(path: Path, head: bytes) -> None:
    for magic, what, hint in _OTHERS:
        if head.startswith(magic[:16]):
            raise ExportError(f"{path} is {what}", hint=hint)
    names = member_names(path)
    if any(name.endswith("/constants.pkl") for name in names) and any("/code/" in name for name in names):
        hint = "save the state_dict() of the module it was made from"
        raise ExportError(f"{path} is a TorchScript archive, which holds code", hint=hint)
    if names and all(name.endswith(".npy") for name in names):
        raise ExportError(f"{path} is a NumPy archive", hint="save the tensors with torch.save or safetensors")
    if not names and head[8:9] != b"{" and _is_tar(path):
        raise ExportError(f"{path} is a tar archive", hint="unpack it, and give the checkpoint in it")


def _is_tar(path: Path) -> bool:
    """Whether torch's reader would take it for one, and unpack it; without unpacking anything."""
    try:
        with tarfile.open(path, "r:"):
            return True
    except (tarfile.TarError, OSError, ValueError, EOFError, LookupError, ArithmeticError, MemoryError):
        return False


def _check_header(path: Path) -> None:
    """Of a safetensors file, which it covers whole."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
    if LARGEST_HEADER < length <= path.stat().st_size:
        raise ExportError(f"{path} has a header of {length} bytes, more than {LARGEST_HEADER}", hint=BROKEN)
    try:
        with safetensors.safe_open(path, framework="pt"):
            return
    except (safetensors.SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    _check_header(path)
    try:
        with safetensors.safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
            state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
    except (safetensors.SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error
    except (KeyError, AttributeError, TypeError, RuntimeError) as error:
        # an element type that torch, or this torch, has no form for
        message = f"{path} holds tensors of a type that torch cannot read: {str(error)[:200]}"
        raise ExportError(message, hint="save it in float32, float16 or bfloat16") from error
    return state, {alias: name for alias, name in metadata.items() if name in state and alias not in state}


def _unreadable(path: Path, error: Exception) -> ExportError:
    return ExportError(f"{path} is no readable safetensors file: {str(error)[:200]}", hint=BROKEN)


def _read_torch(path: Path) -> Any:
    zipped = is_zip(path)  # the format since torch 1.6; only that can be memory-mapped
    if zipped:
        check_archive(path)
    else:
        check_legacy(path, LARGEST_PICKLE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what cannot be read raises anyway
            with torch.serialization.safe_globals([argparse.Namespace]):  # trainers' `args`: values, no behaviour
                if path.suffix == ".safetensors":  # by which torch.load would judge it
                    with path.open("rb") as stream:
                        return torch.load(stream, map_location="cpu", weights_only=True)
                return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        refused = _REFUSED.search(str(error)) if zipped or _starts_as_pickle(path) else None
        if refused is None:
            raise ExportError(f"{path} is no readable PyTorch checkpoint", hint=BROKEN) from error
        raise ExportError(f"{path} is refused, as it could execute code: {refused[0][:200]}", hint=_CONVERT) from error
    except (
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        ArithmeticError,
        AssertionError,
        MemoryError,
        NotImplementedError,
        RecursionError,
        struct.error,
    ) as error:
        # what torch's reader raises on files that are truncated, corrupt or something else
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ExportError(f"{path} is no readable PyTorch checkpoint: {reason}", hint=BROKEN) from error


def _starts_as_pickle(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(1) == b"\x80"  # the opcode that opens every binary pickle
