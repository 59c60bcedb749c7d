"""Reads checkpoints without executing anything in them, and loads them strictly.

safetensors, or `torch.load(weights_only=True)`. Layouts: `{step, epoch, model, ema, ...}` as the RAE, DSR, DiT and
SiT trainers write them (`ema` is used), JiT's `{model, model_ema1, model_ema2, ...}` (`model_ema1`, which it samples
with), `{state_dict: ...}`, or plain tensors by name.
"""

from __future__ import annotations

import argparse
import pickle  # noqa: TID251 (for its exception; nothing is unpickled here)
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from dsr_export.errors import ExportError, did_you_mean

StateDict = dict[str, Tensor]
SAFETENSORS = (".safetensors",)
PICKLED = (".pt", ".pth", ".bin", ".ckpt")
WRAPPERS = ("ema", "model_ema1", "model", "state_dict")
SHOWN = 5  # names listed of each kind of problem
_CONVERT = "convert it where you trust it: safetensors.torch.save_file(state_dict, 'model.safetensors')"
_REFUSED = re.compile(r"(Unsupported|Trying to|Can only)[^\n]*?(?=\. |\n|$)")  # how torch's weights-only reader refuses
_BROKEN = "copy or download it again"


def read_state_dict(path: Path) -> StateDict:
    """Tensors by name, float32 (integers as they are), finite, without wrappers and `module.`-like prefixes.

    Raises ExportError, with the way out, for a file that is missing, empty, corrupt, of an unknown kind, that
    would execute code, that holds no tensors, or whose weights are not finite.
    """
    _check_file(path)
    content = _read_safetensors(path) if path.suffix in SAFETENSORS else _read_pickled(path)
    state = _strip_prefix(_tensors(path, _unwrap(content)))
    state = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    _check_finite(path, state)
    return state


def load_into(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Loads `state` strictly; a module on the meta device takes the tensors themselves, any other copies them.

    Raises one ExportError that names missing and unexpected tensors and wrong shapes.
    """
    wanted = module.state_dict()
    problems = [*_name_problems(wanted, state), *_shape_problems(wanted, state)]
    if problems:
        message = "the checkpoint does not fit the model\n" + "\n".join(problems)
        raise ExportError(message, hint=_register_hint(wanted, state) or "compare the options with the training's")
    meta = any(tensor.is_meta for tensor in wanted.values())
    module.load_state_dict(dict(state), strict=True, assign=meta)


def _check_file(path: Path) -> None:
    if path.suffix not in SAFETENSORS + PICKLED:
        raise ExportError(f"{path}: unknown kind of checkpoint", hint="known: " + " ".join(SAFETENSORS + PICKLED))
    if not path.exists():
        siblings = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        raise ExportError(f"no such checkpoint: {path}", hint=did_you_mean(path.name, siblings) or "check the path")
    if not path.is_file():
        raise ExportError(f"{path} is not a file", hint="give the checkpoint file inside it")
    if path.stat().st_size == 0:
        raise ExportError(f"{path} is empty", hint=_BROKEN)


def _read_safetensors(path: Path) -> StateDict:
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise ExportError(f"{path} is no readable safetensors file: {error}", hint=_BROKEN) from error


def _read_pickled(path: Path) -> Any:
    zipped = zipfile.is_zipfile(path)  # the format since torch 1.6; only that can be memory-mapped
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # what cannot be read raises anyway
            with torch.serialization.safe_globals([argparse.Namespace]):  # trainers' `args`: values, no behaviour
                return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        refused = _REFUSED.search(str(error)) if zipped or _starts_as_pickle(path) else None
        if refused is None:
            raise ExportError(f"{path} is no readable PyTorch checkpoint", hint=_BROKEN) from error
        raise ExportError(f"{path} is refused, as it could execute code: {refused[0]}", hint=_CONVERT) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        # what torch's reader raises on files that are truncated, corrupt or something else
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ExportError(f"{path} is no readable PyTorch checkpoint: {reason}", hint=_BROKEN) from error


def _starts_as_pickle(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(1) == b"\x80"  # the opcode that opens every binary pickle


def _unwrap(content: Any) -> Any:
    """The first of `WRAPPERS` that holds something, however deep."""
    while isinstance(content, Mapping):
        inner = [content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)]
        inner = [value for value in inner if value]
        if not inner:
            break
        content = inner[0]
    return content


def _tensors(path: Path, content: Any) -> StateDict:
    entries = content.items() if isinstance(content, Mapping) else ()
    state = {name: t.detach() for name, t in entries if isinstance(name, str) and isinstance(t, Tensor)}
    if not state:
        kind = f"keys: {', '.join(map(str, list(content)[:SHOWN]))}" if entries else f"a {type(content).__name__}"
        raise ExportError(f"{path} holds no tensors by name ({kind})", hint="save the model's state_dict()")
    for name, tensor in state.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.is_meta:
            raise ExportError(f"{path}: tensor '{name}' is not a plain dense tensor", hint="save it in float32")
    return state


def _strip_prefix(state: StateDict) -> StateDict:
    """Without the prefix that `DistributedDataParallel` or `torch.compile` put on every name."""
    for prefix in ("module.", "_orig_mod."):
        if all(name.startswith(prefix) for name in state):
            return _strip_prefix({name[len(prefix) :]: tensor for name, tensor in state.items()})
    return state


def _check_finite(path: Path, state: StateDict) -> None:
    broken = [name for name, t in state.items() if t.is_floating_point() and not t.isfinite().all()]
    if broken:
        raise ExportError(
            f"{path}: {len(broken)} tensors hold NaN or Inf: {_listed(broken)}",
            hint="use a checkpoint from before the training diverged",
        )


def _name_problems(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    missing = [name for name in wanted if name not in state]
    extra = [name for name in state if name not in wanted]
    return [*_named("missing", missing, extra), *_named("unexpected", extra, missing)]


def _named(kind: str, names: list[str], others: list[str]) -> list[str]:
    if not names:
        return []
    lines = [f"  {name}{_near(name, others)}" for name in names[:SHOWN]]
    more = [f"  ... and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return [f"{len(names)} {kind}:", *lines, *more]


def _near(name: str, others: list[str]) -> str:
    near = did_you_mean(name, others)
    return f" ({near})" if near else ""


def _shape_problems(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    wrong = [name for name in wanted if name in state and wanted[name].shape != state[name].shape]
    lines = [f"{name}: expected {list(wanted[name].shape)}, found {list(state[name].shape)}" for name in wrong]
    return _named("of another shape", lines, [])


def _register_hint(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str | None:
    """The `--registers` that would fit, where registers are what differs."""
    want, have = (_register_count(tensors) for tensors in (wanted, state))
    return None if want == have else f"the checkpoint has {have} registers: give --registers {have}"


def _register_count(tensors: Mapping[str, Tensor]) -> int:
    tokens = tensors.get("register_tokens", tensors.get("enc_register_tokens"))
    return tokens.shape[1] if tokens is not None and tokens.ndim == 3 else 0


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
