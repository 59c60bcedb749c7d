"""Averaged weights that do not stand under the model's names: lists in the order of its parameters, or names squeezed.

diffusers' `EMAModel`, `torch_ema` and score_sde save `shadow_params`, a list; LDM's `LitEma` saves `model_ema.*`, whose
names are the model's without their dots. Both leave out what is not averaged (buffers): the model's own entry has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from dsr_export.checkpoints.candidates import Candidate
from dsr_export.checkpoints.contents import Contents, StateDict
from dsr_export.checkpoints.names import is_ema
from dsr_export.errors import ExportError

LIST = "shadow_params"
_HINT = "give --weights model for the weights that are not averaged"


@dataclass(frozen=True)
class Shadow:
    """Averaged weights under the names of `model`, which fills in what is not averaged; `names` says how."""

    entry: str
    names: str
    model: Candidate
    averaged: StateDict

    @property
    def state(self) -> StateDict:
        """All weights: the averaged ones, and the model's own of the others."""
        return {**self.model.state, **self.averaged}


def shadow_in(path: Path, content: Contents, models: Sequence[Candidate], parameters: Sequence[str]) -> Shadow | None:
    """The averaged weights, None where there are none. `parameters` are the model's, in order, where they are known.

    Raises ExportError where there are some, and how they belong to the model's names is not certain.
    """
    model = models[0] if len(models) == 1 else None
    lists = {name: values for name, values in content.lists.items() if any(map(_averages, name.split(".")))}
    if lists:
        name = min(lists, key=lambda each: (not each.endswith(LIST), each))
        return _from_list(path, name, lists[name], model, parameters)
    groups = _ema_groups(content, model)
    if groups:
        entry, tensors = next(iter(groups.items()))
        return _from_squeezed(path, entry, tensors, model)
    return None


def _averages(part: str) -> bool:
    return part == LIST or is_ema(part)


def _from_list(
    path: Path, entry: str, values: list[Tensor], model: Candidate | None, parameters: Sequence[str]
) -> Shadow:
    if model is None:
        message = f"{path} holds averaged weights '{entry}' as a list, without the names of one model beside them"
        raise ExportError(message, hint="give a checkpoint that also holds the model's state_dict()")
    names = _only_order(values, model.state, parameters)
    if names is None:
        message = f"{path}: which parameters the {len(values)} averaged weights '{entry}' are is not certain"
        raise ExportError(message, hint=_HINT)
    how = f"in the order of '{model.label}'"
    return Shadow(entry, how, model, dict(zip(names, values, strict=True)))


def _only_order(values: Sequence[Tensor], state: StateDict, parameters: Sequence[str]) -> list[str] | None:
    """The names, in order, that the values have by their shapes; None unless there is exactly one way.

    The first way and the last are the same where there is only one. Frozen parameters may be left out.
    """
    floats = (name for name, tensor in state.items() if tensor.is_floating_point())
    names = [name for name in parameters or floats if name in state]
    first = _subsequence(values, names, state)
    last = _subsequence(values[::-1], names[::-1], state)
    return first if first is not None and last is not None and first == last[::-1] else None


def _subsequence(values: Sequence[Tensor], names: Sequence[str], state: StateDict) -> list[str] | None:
    left, found = iter(names), []
    for value in values:
        name = next((each for each in left if state[each].shape == value.shape), None)
        if name is None:
            return None
        found.append(name)
    return found


def _ema_groups(content: Contents, model: Candidate | None) -> dict[str, StateDict]:
    """Tensors below an entry that is called an average, where they are about as many as the model's."""
    groups: dict[str, StateDict] = {}
    for name, tensor in content.tensors.items():
        parts = name.split(".")
        at = next((i for i, part in enumerate(parts[:-1]) if is_ema(part)), None)
        if at is not None and (model is None or name not in model.full_names):
            groups.setdefault(".".join(parts[: at + 1]), {})[".".join(parts[at + 1 :])] = tensor
    least = 1 if model is None else max(1, len(model.state) // 2)
    return {entry: tensors for entry, tensors in groups.items() if len(tensors) >= least}


def _from_squeezed(path: Path, entry: str, tensors: StateDict, model: Candidate | None) -> Shadow:
    state = {} if model is None else model.state
    squeezed: dict[str, list[str]] = {}
    for name in state:
        for part in {name, *(name_in_full(model, name))}:
            squeezed.setdefault(part.replace(".", ""), []).append(name)
    found = {name: squeezed[name] for name in tensors if name in squeezed}
    rest = [name for name in tensors if name not in found and tensors[name].ndim]
    if model is None or rest or not found or any(len(names) > 1 for names in found.values()):
        message = f"{path} holds averaged weights '{entry}', whose names do not fit the model"
        raise ExportError(message, hint=_HINT)
    averaged = {names[0]: tensors[name] for name, names in found.items()}
    return Shadow(entry, f"those of '{model.label}' without dots", model, averaged)


def name_in_full(model: Candidate | None, name: str) -> list[str]:
    """The name with each end of the model's prefix before it: an average is made of any part of the whole."""
    parts = [] if model is None else model.parts
    return [".".join([*parts[i:], name]) for i in range(len(parts))]
