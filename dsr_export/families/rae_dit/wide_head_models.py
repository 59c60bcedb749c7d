"""The registered sizes of the `rae-dit-dh` family, and how one is loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from dsr_export.errors import ExportError
from dsr_export.families.family import Family, load_module, read_weights
from dsr_export.families.network_parts.conditional import conditional_subject
from dsr_export.families.rae_dit.config import problems_of
from dsr_export.families.rae_dit.models import REGISTERS, released_sampler
from dsr_export.families.rae_dit.wide_head import RaeDitDh, RaeDitDhConfig
from dsr_export.families.request import FamilyRequest
from dsr_export.families.schema import Problems, Schema, Value
from dsr_export.families.shapes import Widths, count_blocks, register_count
from dsr_export.subject import Subject

SIZES: dict[str, dict[str, Value]] = {
    "rae-dit-dh-s": {
        "hidden_size": (384, 2048),
        "depth": (12, 2),
        "num_heads": (6, 16),
        "register_len": REGISTERS,
    },
    "rae-dit-dh-xl": {
        "hidden_size": (1152, 2048),
        "depth": (28, 2),
        "num_heads": (16, 16),
        "register_len": REGISTERS,
    },
}
"""Trunk and head as in public configurations: arXiv 2510.11690 (S guides XL there), 2605.05206."""


def load(asked: FamilyRequest) -> Subject:
    """Loads `rae-dit-dh-*`, or `rae-dit-dh` with its sizes in the options."""
    weights, provenance = read_weights(asked)
    module = load_module(FAMILY, asked, weights)
    sampler = released_sampler(module.config.trunk)
    return conditional_subject(asked.model, module, replace=asked.groups, sampler=sampler, provenance=provenance)


def sizes_of(state: Mapping[str, Tensor]) -> dict[str, Value]:
    """Sizes that can be read off a checkpoint's shapes: registers, latent size and channels."""
    sizes: dict[str, Value] = {"register_len": register_count(state, "enc_register_tokens")}
    patch, table = (state.get(key) for key in ("s_embedder.proj.weight", "enc_feat_rope.freqs_cos"))
    if patch is not None and patch.ndim == 4:
        sizes |= {"in_channels": patch.shape[1], "patch_size": (patch.shape[2], patch.shape[3])}
    if table is not None and table.ndim == 2:
        sizes["input_size"] = math.isqrt(table.shape[0])
    return sizes


def _problems(c: RaeDitDhConfig) -> Problems:
    own = [
        (c.patch_size != (1, 1), f"patch_size {c.patch_size}: the released model runs with patches of 1 only"),
        (not c.use_rope, "use_rope: the released model cannot run without it"),
        (c.wo_shift, "wo_shift: the released model cannot run it, so no checkpoint has it"),
    ]
    return [*own, *problems_of(c.trunk), *problems_of(c.head)]


def _widths_of(config: RaeDitDhConfig) -> Widths:
    return " + ".join(map(str, config.hidden_size)), sum(config.depth)


def _widths_in(state: Mapping[str, Tensor]) -> Widths | None:
    trunk, head, blocks = (*(state.get(f"{x}_embedder.proj.weight") for x in "sx"), count_blocks(state))
    if trunk is None and "pos_embed" in state:
        raise ExportError("the checkpoint is a LightningDiT, without a wide head", hint="use rae-dit-xl, or its size")
    return None if trunk is None or head is None or not blocks else (f"{len(trunk)} + {len(head)}", blocks)


FAMILY = Family(
    takes_registers=False,  # it has two sets, of two widths
    schema=Schema(family=RaeDitDh.FAMILY, config=RaeDitDhConfig, sizes_of=sizes_of, problems=_problems),
    module=RaeDitDh,
    sizes=SIZES,
    widths_of=_widths_of,
    widths_in=_widths_in,
)
