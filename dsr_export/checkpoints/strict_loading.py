"""Loads tensors into a module strictly: names, shapes and kinds of numbers have to be the module's."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dsr_export.checkpoints.contents import Wanted
from dsr_export.checkpoints.names import without_inner
from dsr_export.errors import ExportError, did_you_mean

SHOWN = 5  # names listed of each kind of problem
_EMPTY = "its weights lie in other files: join them first (DeepSpeed: zero_to_fp32.py; FSDP: a full state dict)"


def names_of(module: nn.Module) -> Wanted:
    """All names of the module's weights and buffers, without wrappers that it may have itself."""
    names = tuple(without_inner(name) for name in module.state_dict())
    return Wanted(names, complete=True, parameters=tuple(without_inner(name) for name, _ in module.named_parameters()))


def load_into(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Loads `state` strictly; a module on the meta device takes the tensors themselves, any other copies them.

    Integers are no weights: a float tensor of the module takes floats only; integers and booleans take what keeps
    every value. Raises one ExportError that names missing and unexpected tensors, wrong shapes and wrong types.
    """
    own = {without_inner(name): name for name in module.state_dict()}
    wanted = {name: module.state_dict()[full] for name, full in own.items()}
    given = {without_inner(name): tensor for name, tensor in state.items()}
    tied = _tied(module)
    given |= {name: given[twin] for name, twin in _absent_twins(wanted, given, tied).items()}
    problems = [*_name_problems(wanted, given), *_shape_problems(wanted, given), *_type_problems(wanted, given)]
    problems += _tie_problems(given, tied)
    if problems:
        message = "the checkpoint does not fit the model\n" + "\n".join(problems)
        raise ExportError(message, hint=_hint(wanted, given))
    meta = any(tensor.is_meta for tensor in wanted.values())
    fitting = {own[name]: tensor.to(wanted[name].dtype) for name, tensor in given.items()}
    module.load_state_dict(fitting, strict=True, assign=meta)


def _tied(module: nn.Module) -> list[list[str]]:
    """Names that stand for one tensor of the module."""
    groups: dict[int, list[str]] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        groups.setdefault(id(tensor), []).append(without_inner(name))
    return [names for names in groups.values() if len(names) > 1]


def _absent_twins(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], tied: list[list[str]]) -> dict[str, str]:
    """Absent name -> a name of the same tensor that is there: writers leave out what is tied."""
    made: dict[str, str] = {}
    for names in tied:
        there = [name for name in names if name in given]
        made |= {name: there[0] for name in names if there and name not in given and name in wanted}
    return made


def _tie_problems(given: Mapping[str, Tensor], tied: list[list[str]]) -> list[str]:
    pairs = [(names[0], other) for names in tied for other in names[1:] if names[0] in given and other in given]
    lines = [f"{one} and {other}" for one, other in pairs if not _same(given[one], given[other])]
    return _named("pairs tied in the model and different in the checkpoint", lines, [])


def _same(one: Tensor, other: Tensor) -> bool:
    return one is other or (one.dtype == other.dtype and torch.equal(one, other))


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


def _type_problems(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    both = [name for name in wanted if name in state]
    wrong = [name for name in both if not _keeps_values(state[name], wanted[name].dtype)]
    lines = [f"{name}: expected {_said(wanted[name])}, found {_said(state[name])}" for name in wrong]
    return _named("of another type", lines, [])


def _keeps_values(tensor: Tensor, wanted: torch.dtype) -> bool:
    """Floats for floats; for integers and booleans, any type whose values all are the same there."""
    if wanted.is_floating_point:
        return tensor.dtype.is_floating_point
    if wanted.is_complex or tensor.dtype.is_complex:
        return wanted.is_complex and tensor.dtype.is_complex
    return tensor.dtype == wanted or bool(torch.equal(tensor.to(wanted).to(tensor.dtype), tensor))


def _said(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _hint(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    both = [name for name in wanted if name in given]
    if both and all(given[name].numel() == 0 < wanted[name].numel() for name in both):
        return _EMPTY
    codes = [name for name in both if wanted[name].is_floating_point() and not given[name].is_floating_point()]
    if codes:
        return f"'{codes[0]}' holds {_said(given[codes[0]])} where weights belong: dequantise it, and save float32"
    return _register_hint(wanted, given) or "compare the options with the training's"


def _register_hint(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str | None:
    """The `--registers` that would fit, where registers are what differs."""
    want, have = (_register_count(tensors) for tensors in (wanted, state))
    return None if want == have else f"the checkpoint has {have} registers: give --registers {have}"


def _register_count(tensors: Mapping[str, Tensor]) -> int:
    tokens = tensors.get("register_tokens", tensors.get("enc_register_tokens"))
    return tokens.shape[1] if tokens is not None and tokens.ndim == 3 else 0
