"""How LightningDiT is configured, from a checkpoint's shapes and a user's options."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from dsr_export.families.rae_dit.network import RaeDitConfig
from dsr_export.families.schema import Problems, Schema, Value, no_dropout, resolve, stack_problems, undivided_heads
from dsr_export.families.shapes import denoiser_sizes


def resolve_config(
    base: Mapping[str, Value],
    *,
    registers: int | None = None,
    options: Mapping[str, Value] | None = None,
    state: Mapping[str, Tensor] | None = None,
) -> RaeDitConfig:
    """`resolve` for `rae-dit`."""
    return resolve(RAE_DIT, base, registers=registers, options=options, state=state)


def problems_of(c: RaeDitConfig) -> Problems:
    """What cannot be built of LightningDiT blocks."""
    return [
        *stack_problems(c, undivided_heads(c), no_dropout(c.class_dropout_prob)),
        (c.wo_shift, "wo_shift: the released model cannot run it, so no checkpoint has it"),
        (c.register_conditioning and not c.use_rope, "use_rope: the released model has no registers without it"),
    ]


RAE_DIT = Schema(family="rae-dit", config=RaeDitConfig, sizes_of=denoiser_sizes, problems=problems_of)
