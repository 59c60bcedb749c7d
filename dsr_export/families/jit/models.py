"""The registered sizes of the `jit` family, and how one is loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from torch import Tensor

from dsr_export.errors import ExportError
from dsr_export.families.family import Family, load_module, read_weights
from dsr_export.families.jit.network import Jit, JitConfig
from dsr_export.families.network_parts.conditional import conditional_subject
from dsr_export.families.network_parts.replacements import OWN
from dsr_export.families.request import FamilyRequest
from dsr_export.families.schema import (
    Problems,
    Schema,
    Value,
    stack_problems,
    undivided_heads,
    undivided_positions,
)
from dsr_export.families.shapes import denoiser_sizes, widths_in, widths_of
from dsr_export.sampling import SamplerSpec
from dsr_export.spec import ReplaceSpec
from dsr_export.subject import Subject

CALLS = 50  # of the model in one trajectory; released: as many steps, of Heun's method
REGISTERS = 32
RELEASED_SIDES = {16: 256, 32: 512}  # pixels, by patch size
NOISE_SIDE = 256  # pixels at which noise has a standard deviation of 1; it grows with the side
LETTERS: dict[str, dict[str, Value]] = {
    "b": {"hidden_size": 768, "depth": 12, "num_heads": 12, "bottleneck_dim": 128, "register_start": 4},
    "l": {"hidden_size": 1024, "depth": 24, "num_heads": 16, "bottleneck_dim": 128, "register_start": 8},
    "h": {"hidden_size": 1280, "depth": 32, "num_heads": 16, "bottleneck_dim": 256, "register_start": 10},
}
"""arXiv 2511.13720 and its released code. Other fields have `JitConfig`'s defaults."""
PATCH_WEIGHT = "x_embedder.proj1.weight"
_OUR_NAMES = {"in_context_len": "register_len", "in_context_start": "register_start"}


def load(asked: FamilyRequest) -> Subject:
    """Loads `jit-*`, or `jit` with its sizes in the options."""
    options = {_OUR_NAMES.get(key, key): value for key, value in asked.options.items()}
    weights, provenance = read_weights(asked)
    _check_groups(asked.groups)
    module = load_module(JIT, dataclasses.replace(asked, options=options), weights)
    sampler = _sampler(module.config)
    return conditional_subject(asked.model, module, replace=asked.groups, sampler=sampler, provenance=provenance)


def sizes_of(state: Mapping[str, Tensor]) -> dict[str, Value]:
    """Sizes that can be read off a checkpoint's shapes; the patch size is part of a model's name instead."""
    sizes = denoiser_sizes(state, registers="in_context_posemb", patches=PATCH_WEIGHT)
    if sizes.pop("patch_size", None) is not None:
        sizes["bottleneck_dim"] = state[PATCH_WEIGHT].shape[0]
    return sizes


def _check_groups(groups: Sequence[ReplaceSpec]) -> None:
    if any(group.choice == "nearest" and group.registers == OWN for group in groups):
        raise ExportError(
            "JiT's in-context tokens depend on the label, and replacement needs the same registers for every image",
            hint="set registers to a .safetensors file, or choice to mask or clip",
        )


def _problems(c: JitConfig) -> Problems:
    return [
        *stack_problems(c, undivided_positions(c.hidden_size), undivided_heads(c)),
        (c.bottleneck_dim < 1, f"bottleneck_dim is {c.bottleneck_dim}, but must be at least 1"),
    ]


def _sampler(config: JitConfig) -> SamplerSpec:
    """Released: steps of Heun's method rather than Euler's, and guidance for t in (0.1, 1) only."""
    return SamplerSpec(
        num_steps=CALLS + 1,
        prediction="data",
        path="reversed",
        noise_scale=max(1.0, config.input_size / NOISE_SIDE),
        null_label=config.num_classes,
    )


JIT = Family(
    takes_registers=False,  # its in-context tokens are made of the label
    schema=Schema(family="jit", config=JitConfig, sizes_of=sizes_of, problems=_problems),
    module=Jit,
    sizes={
        f"jit-{letter}-{patch}": {**size, "patch_size": patch, "input_size": side}
        for letter, size in LETTERS.items()
        for patch, side in RELEASED_SIDES.items()
    },
    widths_of=widths_of,
    widths_in=lambda state: widths_in(state, PATCH_WEIGHT),
    base={"register_len": REGISTERS},
)
