"""The registered sizes of the families `dit` and `sit`, and how a `Subject` is made of one; `jit` shares the how."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from dsr_export.declarations.weight_file import WeightFile
from dsr_export.example_rows.drawn import Draw
from dsr_export.families.dit.from_diffusers import dit_from_diffusers, is_diffusers
from dsr_export.families.dit.network import Dit, DitConfig
from dsr_export.families.dit.sit import Sit
from dsr_export.families.rae_dit import config as rae_dit_config
from dsr_export.families.rae_dit.config import Problems, Schema, Value
from dsr_export.families.rae_dit.models import Family, Widths, count_blocks, load_module, read_weights
from dsr_export.families.rae_dit.network import Trunk
from dsr_export.families.replacements import apply_replacements
from dsr_export.sampling import DIFFUSION_STEPS, SamplerSpec
from dsr_export.spec import DenoiserSpec, DsrSpec, ReplaceSpec
from dsr_export.subject import Subject
from graphs.artifacts import TensorSpec

CALLS = 50  # of the model in one trajectory; released: 250 ancestral steps (DiT), an adaptive solver (SiT)
PATCHES = (2, 4, 8)
LETTERS: dict[str, dict[str, Value]] = {
    "s": {"hidden_size": 384, "depth": 12, "num_heads": 6},
    "b": {"hidden_size": 768, "depth": 12, "num_heads": 12},
    "l": {"hidden_size": 1024, "depth": 24, "num_heads": 16},
    "xl": {"hidden_size": 1152, "depth": 28, "num_heads": 16},
}
"""arXiv 2212.09748, table 1. Other fields have `DitConfig`'s defaults."""


def load(
    name: str,
    *,
    checkpoint: WeightFile | None,
    random_weights: int | None,
    registers: int | None,
    replace: Sequence[ReplaceSpec] | None,
    config: Mapping[str, Value],
) -> Subject:
    """Loads `dit-*` or `sit-*`, or either of any size with its sizes in `config`; see `families.load_subject`.

    Without a checkpoint there are no registers unless `registers` asks for some. A `DiTTransformer2DModel`'s
    checkpoint is taken too.
    """
    family = SIT if name.startswith("sit") else DIT
    weights, provenance = read_weights(checkpoint, random_weights)
    if isinstance(weights, int):
        registers = 0 if registers is None and "register_len" not in config else registers
    elif is_diffusers(weights):
        weights = dit_from_diffusers(weights, _number(config.get("input_size", DitConfig.input_size)))
    module = load_module(family, name, weights, registers=registers, config=config)
    return subject_from_module(name, module, replace=replace or (), provenance=provenance)


def subject_from_module(
    name: str, module: Trunk, *, replace: Sequence[ReplaceSpec] = (), provenance: Mapping[str, Any]
) -> Subject:
    """A loaded `Dit` or `Sit` as a Subject: `x [batch, C, H, W]`, `t [batch]`, `y [batch] int64` -> `out`."""
    assert isinstance(module, Dit)
    velocity = isinstance(module, Sit)
    return conditional_subject(
        name,
        module,
        out_channels=module.out_channels,
        replace=replace,
        sampler=_sampler(module.config, velocity=velocity),
        provenance=provenance,
        draws={} if velocity else {"t": _draw_step},
    )


def conditional_subject(
    name: str,
    module: Trunk,
    *,
    out_channels: int,
    replace: Sequence[ReplaceSpec],
    sampler: SamplerSpec,
    provenance: Mapping[str, Any],
    draws: Mapping[str, Draw],
) -> Subject:
    """A class-conditional denoiser as a Subject. Raises ExportError for groups that do not fit the model."""
    config = module.config
    apply_replacements(module, replace, stream=config)
    side = config.input_size
    return Subject(
        name=name,
        family=module.FAMILY,
        module=module.eval().requires_grad_(False),
        inputs=(
            TensorSpec(name="x", dtype="float32", shape=("batch", config.in_channels, side, side)),
            TensorSpec(name="t", dtype="float32", shape=("batch",)),
            TensorSpec(name="y", dtype="int64", shape=("batch",)),
        ),
        outputs=(TensorSpec(name="out", dtype="float32", shape=("batch", out_channels, side, side)),),
        dsr=DsrSpec(denoiser=_denoiser(config, tuple(replace))),
        sampler=sampler,
        num_classes=config.num_classes,
        config=dataclasses.asdict(config),
        provenance=dict(provenance),
        fp32_modules=module.FP32_MODULES,
        draws=draws,
    )


def sizes_of(state: Mapping[str, Tensor]) -> dict[str, Value]:
    """Sizes that can be read off a checkpoint's shapes; the patch size is part of a model's name instead."""
    sizes = rae_dit_config.sizes_of(state)
    patch, final = sizes.pop("patch_size", None), state.get("final_layer.linear.bias")
    if patch is not None and final is not None:
        sizes["learn_sigma"] = len(final) != _number(sizes["in_channels"]) * _number(patch) ** 2
    return sizes


def widths_in(state: Mapping[str, Tensor], patch_weight: str = "x_embedder.proj.weight") -> Widths | None:
    """Hidden size, patch size and depth of a checkpoint."""
    position, patch, blocks = state.get("pos_embed"), state.get(patch_weight), count_blocks(state)
    if position is None or patch is None or patch.ndim != 4 or not blocks:
        return None
    return _widths(position.shape[-1], patch.shape[2]), blocks


def widths_of(config: Any) -> Widths:
    """Hidden size, patch size and depth of a configuration."""
    return _widths(config.hidden_size, config.patch_size), config.depth


def problems_of(c: Any) -> Problems:
    """What cannot be built of DiT's blocks, nor of JiT's."""
    misplaced = c.register_conditioning and not 0 <= c.register_start < c.depth
    return [
        (c.hidden_size % c.num_heads != 0, f"hidden_size {c.hidden_size} is not divisible by num_heads {c.num_heads}"),
        (c.hidden_size % 4 != 0, f"hidden_size {c.hidden_size} is not divisible by 4, as sin-cos positions need"),
        (c.input_size % c.patch_size != 0, f"patch_size {c.patch_size} does not divide input_size {c.input_size}"),
        (not 0 < c.mlp_ratio < math.inf, f"mlp_ratio {c.mlp_ratio} is not a positive number"),
        (c.register_conditioning and c.register_len < 1, f"register_len is {c.register_len}, but must be at least 1"),
        (c.register_len < 0, f"register_len {c.register_len} is negative"),
        (misplaced, f"register_start {c.register_start} is outside [0, {c.depth}), the blocks of this model"),
    ]


def _dit_problems(c: DitConfig) -> Problems:
    dropout = c.class_dropout_prob
    return [*problems_of(c), (not 0 <= dropout < 1, f"class_dropout_prob {dropout} is not in [0, 1)")]


def _family(name: str, module: type[Dit]) -> Family[DitConfig]:
    return Family(
        schema=Schema(family=name, config=DitConfig, sizes_of=sizes_of, problems=_dit_problems),
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


def _denoiser(config: Any, replace: tuple[ReplaceSpec, ...]) -> DenoiserSpec:
    if not config.register_conditioning:
        return DenoiserSpec(kind="none", replace=replace)
    return DenoiserSpec(kind="diffusion", registers=config.register_len, start=config.register_start, replace=replace)


def _draw_step(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    return rng.integers(0, DIFFUSION_STEPS, shape)


def _widths(hidden: int, patch: int) -> str:
    return f"{hidden}, patch size {patch}"


def _number(value: Value | None) -> int:
    return value if isinstance(value, int) else 0


DIT = _family("dit", Dit)
SIT = _family("sit", Sit)
