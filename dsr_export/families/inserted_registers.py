"""`register_file` for a family whose checkpoints have registers, or have none: these are put into one that has none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from dsr_export.checkpoints import StateDict, Wanted, read_state_dict, require_float
from dsr_export.errors import ExportError
from dsr_export.families.request import FamilyRequest

OPTION = "register_file"
TOKENS, POSITIONS = "register_tokens", "register_pos_embed"
_ROPE, _ROPE_WITH_REGISTERS = "feat_rope.freqs_", "feat_rope_incontext.freqs_"
_WANTED = Wanted(("registers",))


def read_registers(file: Path, width: int | None = None) -> Tensor:
    """The tensor `registers` [R, D] of a safetensors file. ExportError where it holds none of that width."""
    rows = read_state_dict(file, _WANTED).get("registers")
    if rows is None or rows.ndim != 2 or not len(rows) or width not in (None, rows.shape[1]):
        found = "none" if rows is None else str(list(rows.shape))
        raise ExportError(
            f"{file}: expected a tensor 'registers' of shape [R, {width or 'D'}], found {found}",
            hint="save it with safetensors.torch.save_file({'registers': rows}, FILE)",
        )
    return require_float(file, "registers", rows)


def inserted_rows(asked: FamilyRequest, *, takes: bool, own: bool) -> tuple[FamilyRequest, Tensor | None]:
    """The registers to insert (None: none), and the request with their number in place of their file.

    `takes` says whether the family has registers at all, `own` whether these weights have some. Raises ExportError
    for a file that does not fit, or a model that cannot take it.
    """
    options = dict(asked.options)
    if OPTION not in options:
        return asked, None
    file = Path(str(options.pop(OPTION)))
    if not takes:
        raise ExportError(f"{asked.model} takes no registers from a file", hint="leave register_file out")
    if own:
        raise ExportError(
            f"{asked.model} has registers of its own, and {file} would be a second set",
            hint="leave register_file out, or give a checkpoint that has none",
        )
    rows = read_registers(file)
    if asked.registers not in (None, len(rows)):
        raise ExportError(f"{asked.registers} registers are asked for, and {file} holds {len(rows)}")
    return replace(asked, options=options, registers=len(rows)), rows


def with_registers(state: StateDict, rows: Tensor) -> StateDict:
    """A checkpoint without registers [.., D] as one that was trained with these: positions 0, and not rotated.

    Raises ExportError for registers of another width than its tokens have.
    """
    tokens = state.get("pos_embed")
    if tokens is not None and tokens.ndim and tokens.shape[-1] != rows.shape[-1]:
        raise ExportError(
            f"{OPTION} holds registers of {rows.shape[-1]} channels, and the model's tokens have {tokens.shape[-1]}",
            hint="give the file that was made for this model",
        )
    added = {TOKENS: rows[None], POSITIONS: torch.zeros_like(rows)[None]}
    for kind, value in (("cos", 1.0), ("sin", 0.0)):
        table = state.get(_ROPE + kind)
        if table is not None and table.ndim == 2:
            front = torch.full((len(rows), table.shape[1]), value, dtype=table.dtype)
            added[_ROPE_WITH_REGISTERS + kind] = torch.cat([front, table])
    return {**state, **added}


@torch.no_grad()
def set_registers(module: torch.nn.Module, rows: Tensor) -> None:
    """Of a module that was drawn with registers: these take their place."""
    own: Mapping[str, Tensor] = dict(module.named_parameters())
    if own[TOKENS].shape[-1] != rows.shape[-1]:
        raise ExportError(f"registers have {rows.shape[-1]} channels, and the model has {own[TOKENS].shape[-1]}")
    own[TOKENS].copy_(rows[None])
    own[POSITIONS].zero_()
