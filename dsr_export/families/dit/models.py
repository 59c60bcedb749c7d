"""The registered sizes of the families `dit` and `sit`, and how one is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from dsr_export.families.dit.from_diffusers import dit_from_diffusers, is_diffusers
from dsr_export.families.dit.network import Dit, DitConfig
from dsr_export.families.dit.sit import Sit
from dsr_export.families.family import Family, load_module, read_weights
from dsr_export.families.network_parts.conditional import conditional_subject
from dsr_export.families.request import FamilyRequest
from dsr_export.families.schema import Problems, Schema, Value, no_dropout, stack_problems, undivided_positions
from dsr_export.families.shapes import denoiser_sizes, widths_in, widths_of
from dsr_export.sampling import DIFFUSION_STEPS, SamplerSpec
from dsr_export.subject import Subject

CALLS = 50  # of the model in one trajectory; released: 250 ancestral steps (DiT), an adaptive solver (SiT)
PATCHES = (2, 4, 8)
LETTERS: dict[str, dict[str, Value]] = {
    "s": {"hidden_size": 384, "depth": 12, "num_heads": 6},
    "b": {"hidden_size": 768, "depth": 12, "num_heads": 12},
    "l": {"hidden_size": 1024, "depth": 24, "num_heads": 16},
    "xl": {"hidden_size": 1152, "depth": 28, "num_heads": 16},
}
"""arXiv 2212.09748, table 1. Other fields have `DitConfig`'s defaults: no registers."""


def load(asked: FamilyRequest) -> Subject:
    """Loads `dit-*` or `sit-*`, or either of any size with its sizes in the options.

    A `DiTTransformer2DModel`'s checkpoint is taken too.
    """
    family = SIT if asked.model.startswith("sit") else DIT
    weights, provenance = read_weights(asked)
    if not isinstance(weights, int) and is_diffusers(weights):
        weights = dit_from_diffusers(weights, _number(asked.options.get("input_size", DitConfig.input_size)))
    module = load_module(family, asked, weights)
    velocity = isinstance(module, Sit)
    return conditional_subject(
        asked.model,
        module,
        replace=asked.groups,
        sampler=_sampler(module.config, velocity=velocity),
        provenance=provenance,
        draws={} if velocity else {"t": _draw_step},
    )


def sizes_of(state: Mapping[str, Tensor]) -> dict[str, Value]:
    """Sizes that can be read off a checkpoint's shapes; the patch size is part of a model's name instead."""
    sizes = denoiser_sizes(state)
    patch, final = sizes.pop("patch_size", None), state.get("final_layer.linear.bias")
    if patch is not None and final is not None:
        sizes["learn_sigma"] = len(final) != _number(sizes["in_channels"]) * _number(patch) ** 2
    return sizes


def _problems(c: DitConfig) -> Problems:
    return stack_problems(c, undivided_positions(c.hidden_size), no_dropout(c.class_dropout_prob))


def _family(name: str, module: type[Dit]) -> Family[DitConfig]:
    return Family(
        schema=Schema(family=name, config=DitConfig, sizes_of=sizes_of, problems=_problems),
        module=module,
        sizes={f"{name}-{letter}-{p}": {**size, "patch_size": p} for letter, size in LETTERS.items() for p in PATCHES},
        widths_of=widths_of,
        widths_in=widths_in,
    )


def _sampler(config: DitConfig, *, velocity: bool) -> SamplerSpec:
    null_label = config.num_classes if config.class_dropout_prob > 0 else None
    if velocity:
        return SamplerSpec(num_steps=CALLS + 1, prediction="velocity", path="reversed", null_label=null_label)
    return SamplerSpec(num_steps=CALLS + 1, prediction="epsilon", path="ddpm", null_label=null_label)


def _draw_step(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    return rng.integers(0, DIFFUSION_STEPS, shape)


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0


DIT = _family("dit", Dit)
SIT = _family("sit", Sit)
