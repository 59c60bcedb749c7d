"""Which of the weights in a checkpoint are used: averaged ones where there are some; what is ambiguous is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dsr_export.checkpoints.candidates import Candidate, candidates_in
from dsr_export.checkpoints.contents import Contents, StateDict, Wanted, check_plain
from dsr_export.checkpoints.names import FIRST_EMA
from dsr_export.checkpoints.shadows import Shadow, shadow_in
from dsr_export.declarations.weight_file import EMA, MODEL
from dsr_export.errors import ExportError

SHOWN = 5


@dataclass(frozen=True)
class Chosen:
    """`origin`: the entry that was taken, what it is, and which wrappers were taken off."""

    state: StateDict
    origin: dict[str, Any]


def choose(path: Path, content: Contents, wanted: Wanted | None, entry: str | None) -> Chosen:
    """The tensors of one set of weights. `entry` as in `WeightFile`.

    Raises ExportError where there are no tensors, no such entry, several that fit, or averaged weights that cannot
    be told apart from others.
    """
    if not content.tensors and not content.lists:
        raise _no_tensors(path, content)
    found = candidates_in(content, wanted, asked=entry not in (None, EMA, MODEL))
    if not found and content.tensors:
        raise _unknown_place(path, candidates_in(content, wanted, asked=True), content)
    models = [each for each in found if each.kind == MODEL]
    shadow = None
    if entry in (None, EMA) and not any(each.kind == EMA for each in found):
        shadow = shadow_in(path, content, models, wanted.parameters if wanted else ())
    if shadow is not None:
        return _averaged(path, content, shadow)
    if not found:
        raise _no_tensors(path, content)
    chosen = _one(path, found, entry)
    made = _taken(path, content, chosen)
    return _completed(path, made, models, wanted) if chosen.kind == EMA else made


def _one(path: Path, found: Sequence[Candidate], entry: str | None) -> Candidate:
    if entry not in (None, EMA, MODEL):
        chosen = [each for each in found if _within(each, str(entry))]
    else:
        averaged = [each for each in found if each.kind == EMA]
        first = [each for each in averaged if FIRST_EMA in each.parts]
        averaged = first or averaged
        models = [each for each in found if each.kind == MODEL]
        chosen = models if entry == MODEL else averaged if entry == EMA else averaged or models
        chosen = [each for each in chosen if each.label == entry] or chosen
    if not chosen:
        raise ExportError(f"{path} holds no weights '{entry}' that fit; it holds {_listed(found)}", hint=_ways(found))
    if len(chosen) > 1 and not _all_equal(chosen):
        raise ExportError(f"{path} holds several sets of weights: {_listed(chosen)}", hint=_ways(chosen))
    return chosen[0]


def _within(candidate: Candidate, entry: str) -> bool:
    return candidate.label == entry or candidate.prefix.startswith(f"{entry}.")


def _all_equal(found: Sequence[Candidate]) -> bool:
    first, *others = found
    return all(
        first.state.keys() == other.state.keys()
        and all(_equal(first.state[name], other.state[name]) for name in first.state)
        for other in others
    )


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and bool(torch.equal(one, other))


def _listed(found: Sequence[Candidate]) -> str:
    names = [f"'{each.label}'" + (" (averaged)" if each.kind == EMA else "") for each in found[:SHOWN]]
    return ", ".join(names) or "none that are known"


def _ways(found: Sequence[Candidate]) -> str:
    if not found:
        return "save the model's state_dict() alone"
    return "choose with " + " or ".join(f"--weights {each.label}" for each in found[:SHOWN])


def _taken(path: Path, content: Contents, chosen: Candidate) -> Chosen:
    state = {name: check_plain(path, name, tensor) for name, tensor in chosen.state.items()}
    return Chosen(state, _origin(content, chosen))


def _completed(path: Path, made: Chosen, models: Sequence[Candidate], wanted: Wanted | None) -> Chosen:
    """With what the averages leave out (buffers, and what was not trained), from the model's own entry."""
    if len(models) != 1 or wanted is None or not wanted.complete:
        return made
    own = models[0]
    names = [name for name in wanted.names if name in own.state and name not in made.state]
    if not names or any(name not in wanted.names for name in made.state):
        return made
    rest = {name: check_plain(path, name, own.state[name]) for name in names}
    return Chosen({**made.state, **rest}, {**made.origin, **_left_out_of(own, len(rest))})


def _averaged(path: Path, content: Contents, shadow: Shadow) -> Chosen:
    state = {name: check_plain(path, name, tensor) for name, tensor in shadow.state.items()}
    origin = {**_origin(content, shadow.model), "entry": shadow.entry, "kind": EMA, "names": shadow.names}
    return Chosen(state, {**origin, **_left_out_of(shadow.model, len(state) - len(shadow.averaged))})


def _left_out_of(model: Candidate, count: int) -> dict[str, str]:
    """What `origin` says of weights that the average leaves out, and that are the model's own."""
    return {"not_averaged": f"{count} of '{model.label}'"} if count else {}


def _origin(content: Contents, chosen: Candidate) -> dict[str, Any]:
    taken = sorted(content.inner | chosen.wrappers)
    left = sorted({_apart(name, chosen.parts) for name in content.tensors if name not in chosen.full_names})
    return {
        "entry": chosen.prefix.rstrip(".") or "top level",
        "kind": chosen.kind,
        **({"wrappers": taken} if taken else {}),
        **({"left_out": left[:SHOWN]} if left else {}),
    }


def _apart(name: str, parts: Sequence[str]) -> str:
    """The shortest beginning of `name` that is not one of the prefix too."""
    own = name.split(".")
    same = next((i for i, (one, other) in enumerate(zip(own, parts, strict=False)) if one != other), len(parts))
    return ".".join(own[: same + 1])


def _unknown_place(path: Path, found: Sequence[Candidate], content: Contents) -> ExportError:
    roots = ", ".join(content.roots[:SHOWN])
    return ExportError(f"{path} holds no tensors by name in an entry that is known (keys: {roots})", hint=_ways(found))


def _no_tensors(path: Path, content: Contents) -> ExportError:
    kind = f"keys: {', '.join(content.roots[:SHOWN])}" if content.roots else "no mapping with names"
    return ExportError(f"{path} holds no tensors by name ({kind})", hint="save the model's state_dict()")
