"""The registered sizes of the `jit` family, and how a `Subject` is made of one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from dsr_export.declarations.weight_file import WeightFile
from dsr_export.errors import ExportError
from dsr_export.families.dit.models import CALLS, conditional_subject, problems_of, widths_in, widths_of
from dsr_export.families.jit.network import Jit, JitConfig
from dsr_export.families.rae_dit.config import Problems, Schema, Value, register_count
from dsr_export.families.rae_dit.models import Family, load_module, read_weights
from dsr_export.families.replacements import OWN
from dsr_export.sampling import SamplerSpec
from dsr_export.spec import ReplaceSpec
from dsr_export.subject import Subject

REGISTERS = 32
RELEASED_SIDES = {16: 256, 32: 512}  # pixels, by patch size
NOISE_SIDE = 256  # pixels at which noise has a standard deviation of 1; it grows with the side
LETTERS: dict[str, dict[str, Value]] = {
    "b": {"hidden_size": 768, "depth": 12, "num_heads": 12, "bottleneck_dim": 128, "register_start": 4},
    "l": {"hidden_size": 1024, "depth": 24, "num_heads": 16, "bottleneck_dim": 128, "register_start": 8},
    "h": {"hidden_size": 1280, "depth": 32, "num_heads": 16, "bottleneck_dim": 256, "register_start": 10},
}
"""arXiv 2511.13720 and its released code. Other fields have `JitConfig`'s defaults."""
_OUR_NAMES = {"in_context_len": "register_len", "in_context_start": "register_start"}


def load(
    name: str,
    *,
    checkpoint: WeightFile | None,
    random_weights: int | None,
    registers: int | None,
    replace: Sequence[ReplaceSpec] | None,
    config: Mapping[str, Value],
) -> Subject:
    """Loads `jit-*`, or `jit` with its sizes in `config`; see `families.load_subject`."""
    options = {_OUR_NAMES.get(key, key): value for key, value in config.items()}
    weights, provenance = read_weights(checkpoint, random_weights)
    if isinstance(weights, int):
        registers = REGISTERS if registers is None and "register_len" not in options else registers
    _check_groups(replace or ())
    module = load_module(JIT, name, weights, registers=registers, config=options)
    return conditional_subject(
        name,
        module,
        out_channels=module.config.in_channels,
        replace=replace or (),
        sampler=_sampler(module.config),
        provenance=provenance,
        draws={},
    )


def sizes_of(state: Mapping[str, Tensor]) -> dict[str, Value]:
    """Sizes that can be read off a checkpoint's shapes; the patch size is part of a model's name instead."""
    sizes: dict[str, Value] = {"register_len": register_count(state, "in_context_posemb")}
    patch, position = state.get("x_embedder.proj1.weight"), state.get("pos_embed")
    if patch is not None and patch.ndim == 4:
        sizes |= {"in_channels": patch.shape[1], "bottleneck_dim": patch.shape[0]}
        if position is not None and position.ndim == 3:
            sizes["input_size"] = math.isqrt(position.shape[1]) * patch.shape[2]
    return sizes


def _check_groups(groups: Sequence[ReplaceSpec]) -> None:
    if any(group.choice == "nearest" and group.registers == OWN for group in groups):
        raise ExportError(
            "JiT's in-context tokens depend on the label, and replacement needs the same registers for every image",
            hint="set registers to a .safetensors file, or choice to mask or clip",
        )


def _problems(c: JitConfig) -> Problems:
    head = c.hidden_size // c.num_heads
    return [
        *problems_of(c),
        (head % 4 != 0, f"head size {head} (hidden_size / num_heads) is not divisible by 4, as 2-D RoPE needs"),
        (c.bottleneck_dim < 1, f"bottleneck_dim is {c.bottleneck_dim}, but must be at least 1"),
    ]


def _sampler(config: JitConfig) -> SamplerSpec:
    """Released: 50 steps, of Heun's method rather than Euler's, and guidance for t in (0.1, 1) only."""
    return SamplerSpec(
        num_steps=CALLS + 1,
        prediction="data",
        path="reversed",
        noise_scale=max(1.0, config.input_size / NOISE_SIDE),
        null_label=config.num_classes,
    )


JIT = Family(
    schema=Schema(family="jit", config=JitConfig, sizes_of=sizes_of, problems=_problems),
    module=Jit,
    sizes={
        f"jit-{letter}-{patch}": {**size, "patch_size": patch, "input_size": side}
        for letter, size in LETTERS.items()
        for patch, side in RELEASED_SIDES.items()
    },
    widths_of=widths_of,
    widths_in=lambda state: widths_in(state, "x_embedder.proj1.weight"),
)
