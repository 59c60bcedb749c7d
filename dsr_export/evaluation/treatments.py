"""What can be done to a model's outlier tokens, as a declaration of its sites leaves it open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dsr_export.declarations.dsr_file import OWN
from dsr_export.errors import ExportError
from dsr_export.families import FamilyRequest, load
from dsr_export.spec import ReplaceSpec

NONE = "none"
METHODS: Mapping[str, str] = {
    NONE: "outliers left as they are",
    "mask": "outliers set to zero",
    "clip": "norms of outliers clipped to the threshold",
    "nearest": "outliers replaced by the nearest register, once",
    "recursive": "detected and replaced again, until the rounds are over",
    "registers": "inserted registers, outliers left as they are",
    "trained": "outliers treated with the registers and gates from files",
    "both": "inserted registers, and the sites as they are declared",
}
ROUNDS = 2  # of `recursive`, where the declaration says one
_INSERTED = ("register_file", "register_start")


def treated(model: FamilyRequest) -> dict[str, FamilyRequest]:
    """The model under each of `METHODS` that its declaration has something for, in their order.

    Registers that a model was trained with stay in all of them; those that a file inserts are a method of their own.

    Raises:
        ExportError: the model declares neither sites nor a file of registers.
    """
    subject = load(model)
    groups, inserted = subject.dsr.denoiser.replace, "register_file" in model.options
    if not groups and not inserted:
        raise ExportError(
            f"{model.model} declares no replacement sites, so there is nothing to compare",
            hint=f"`dsr-export diagnose {model.model}` proposes them: give its file with --dsr",
        )
    own = not inserted and subject.dsr.denoiser.registers > 0
    from_files = any(group.registers != OWN for group in groups)
    at_hand = own or all(group.registers != OWN for group in groups)  # where nothing is inserted
    named = [NONE, *(("mask", "clip") if groups else ()), *(("nearest", "recursive") if groups and at_hand else ())]
    named += [*(("registers",) if inserted else ()), *(("trained",) if from_files and at_hand else ())]
    named += ["both"] if inserted and groups else []
    return {
        name: replace(
            model if name in ("registers", "both") else _without_inserted(model),
            replace=groups if name in ("trained", "both") else changed_groups(groups, name, own=own),
        )
        for name in named
    }


def changed_groups(groups: tuple[ReplaceSpec, ...], method: str, *, own: bool = True) -> tuple[ReplaceSpec, ...]:
    """The sites of `groups` under a method without gates; registers are the model's `own`, or those of the files."""
    if method in (NONE, "registers"):
        return ()
    recursive = method == "recursive"
    choice: Any = "nearest" if recursive else method
    return tuple(
        replace(
            group,
            choice=choice,
            registers=OWN if own or choice != "nearest" else group.registers,
            rounds=max(group.rounds, ROUNDS) if recursive else 1,
        )
        for group in groups
    )


def _without_inserted(model: FamilyRequest) -> FamilyRequest:
    if "register_file" not in model.options:
        return model
    options = {name: value for name, value in model.options.items() if name not in _INSERTED}
    return replace(model, options=options, registers=None)
