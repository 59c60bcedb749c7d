"""The registered sizes of the `rae-dit` family, and how a `Subject` is made of one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from dsr_export.checkpoints import StateDict, load_into, read_state_dict
from dsr_export.errors import ExportError
from dsr_export.families import file_sha256
from dsr_export.families.rae_dit import RaeDit, RaeDitConfig
from dsr_export.families.rae_dit_config import Value, resolve_config
from dsr_export.families.randomise import empty_module, random_module
from dsr_export.families.replacements import apply_replacements
from dsr_export.sampling import SamplerSpec
from dsr_export.spec import DenoiserSpec, DsrSpec, ReplaceSpec
from dsr_export.subject import Subject
from graphs.artifacts import TensorSpec

REGISTERS = 36  # arXiv 2605.05206
FP32_MODULES = ("x_embedder", "t_embedder", "y_embedder", "final_layer")
"""Small, and sensitive: sinusoids of large angles, and the layer whose error is the output's."""
SIZES: dict[str, dict[str, Value]] = {
    "rae-dit-s": {"hidden_size": 384, "depth": 12, "num_heads": 6},
    "rae-dit-b": {"hidden_size": 768, "depth": 12, "num_heads": 12},
    "rae-dit-l": {"hidden_size": 1024, "depth": 24, "num_heads": 16},
    "rae-dit-xl": {"hidden_size": 1152, "depth": 28, "num_heads": 16},
}
"""Base models: arXiv 2510.11690. Other fields have `RaeDitConfig`'s defaults."""


def load(
    name: str,
    *,
    checkpoint: Path | None,
    random_weights: int | None,
    registers: int | None,
    replace: Sequence[ReplaceSpec] | None,
    config: Mapping[str, Value],
) -> Subject:
    """Loads `rae-dit-*`, or `rae-dit` with its sizes in `config`; see `families.load_subject`."""
    if name == "rae-dit":
        _check_free(config)
    base = {**SIZES[name], "register_len": REGISTERS} if name in SIZES else {}
    weights, provenance = read_weights(checkpoint, random_weights)
    state = None if isinstance(weights, int) else weights
    resolved = resolve_config(base, registers=registers, options=config, state=state)
    if state is not None:
        _check_size(name, resolved, state)
    return subject_from_config(name, resolved, weights, replace=replace or (), provenance=provenance)


def read_weights(checkpoint: Path | None, random_weights: int | None) -> tuple[StateDict | int, dict[str, Any]]:
    """A checkpoint's tensors, or else the seed; and the provenance either gives."""
    if checkpoint is not None:
        return read_state_dict(checkpoint), {"checkpoint_sha256": file_sha256(checkpoint)}
    if random_weights is None:
        raise ExportError("no weights are given", hint="give --checkpoint FILE or --random-weights SEED")
    return random_weights, {"random_seed": random_weights}


def build_module(config: RaeDitConfig, weights: StateDict | int) -> RaeDit:
    """The module with the tensors in `weights`, or drawn from that seed. Raises ExportError where they do not fit."""
    if isinstance(weights, int):
        return random_module(config, weights)
    module = empty_module(config)
    load_into(module, weights)
    return module


def subject_from_config(
    name: str,
    config: RaeDitConfig,
    weights: StateDict | int,
    *,
    replace: Sequence[ReplaceSpec] = (),
    sampler: SamplerSpec | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Subject:
    """`build_module`, then `subject_from_module`."""
    module = build_module(config, weights)
    return subject_from_module(name, module, replace=replace, sampler=sampler, provenance=provenance)


def subject_from_module(
    name: str,
    module: RaeDit,
    *,
    replace: Sequence[ReplaceSpec] = (),
    sampler: SamplerSpec | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Subject:
    """A loaded `RaeDit` as a Subject: `x [batch, C, H, W]`, `t [batch]`, `y [batch] int64` -> `out`, as `x`.

    Applies the groups in `replace`; raises ExportError where they do not fit the model.
    """
    config = module.config
    apply_replacements(module, replace)
    image = ("batch", config.in_channels, config.input_size, config.input_size)
    return Subject(
        name=name,
        family="rae-dit",
        module=module.eval().requires_grad_(False),
        inputs=(
            TensorSpec(name="x", dtype="float32", shape=image),
            TensorSpec(name="t", dtype="float32", shape=("batch",)),
            TensorSpec(name="y", dtype="int64", shape=("batch",)),
        ),
        outputs=(TensorSpec(name="out", dtype="float32", shape=image),),
        dsr=DsrSpec(denoiser=_denoiser(config, tuple(replace))),
        sampler=sampler or default_sampler(config),
        num_classes=config.num_classes,
        config=dataclasses.asdict(config),
        provenance=dict(provenance or {}),
        fp32_modules=FP32_MODULES,
    )


def default_sampler(config: RaeDitConfig) -> SamplerSpec:
    """The released sampler; the time shift depends on the latent's size. No null label without label dropout."""
    return SamplerSpec(
        num_steps=50,
        prediction="data",
        shift_dim=config.in_channels * config.input_size**2,
        shift_base=4096,
        guidance=1.0,
        null_label=config.num_classes if config.class_dropout_prob > 0 else None,
    )


def _denoiser(config: RaeDitConfig, replace: tuple[ReplaceSpec, ...]) -> DenoiserSpec:
    if not config.register_conditioning:
        return DenoiserSpec(kind="none", replace=replace)
    return DenoiserSpec(kind="diffusion", registers=config.register_len, start=config.register_start, replace=replace)


def _check_free(config: Mapping[str, Value]) -> None:
    absent = [field for field in ("hidden_size", "depth", "num_heads") if field not in config]
    if absent:
        raise ExportError(
            f"model 'rae-dit' needs {', '.join(absent)}", hint="give them, or name a size: " + ", ".join(SIZES)
        )


def _check_size(name: str, config: RaeDitConfig, state: Mapping[str, Tensor]) -> None:
    """A checkpoint of another registered size is named at once, rather than by 300 shape mismatches."""
    position = state.get("pos_embed")
    blocks = {key.split(".")[1] for key in state if key.startswith("blocks.")}
    if position is None or not blocks or (position.shape[-1], len(blocks)) == (config.hidden_size, config.depth):
        return
    fitting = [size for size, s in SIZES.items() if (s["hidden_size"], s["depth"]) == (position.shape[-1], len(blocks))]
    raise ExportError(
        f"the checkpoint has hidden size {position.shape[-1]} and {len(blocks)} blocks, "
        f"'{name}' {config.hidden_size} and {config.depth}",
        hint=f"use {fitting[0]}" if fitting else "use rae-dit with hidden_size, depth and num_heads",
    )
