"""The registered sizes of the `rae-decoder` family, and how a `Subject` is made of one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dsr_export.checkpoints import StateDict, Wanted, load_into, read_checkpoint
from dsr_export.errors import ExportError, did_you_mean
from dsr_export.families.config_bounds import check_config, check_memory
from dsr_export.families.decoder.network import RaeDecoder, RaeDecoderConfig, position_table
from dsr_export.families.digests import Value, file_sha256
from dsr_export.families.network_parts.latents import LatentDenormalisation, read_statistics
from dsr_export.families.network_parts.randomise import Moments, draw_weights, usual_moments, without_memory
from dsr_export.families.request import FamilyRequest
from dsr_export.images.preparation import PREPARATIONS
from dsr_export.spec import DsrSpec
from dsr_export.subject import Subject
from graphs.artifacts import TensorSpec

OUTER_MODULES = ("head", "decoder_embed", "decoder_pred")
"""Small, and not quantised: the denormalised latent's range, and the layer whose error is the picture's."""
STATISTICS = "latent_stats"
ENCODER, DEFAULT_ENCODER = "encoder", "siglip"
"""For whose pixels a decoder was trained: no checkpoint says it, and no weight depends on it."""
KNOWN_NAMES = Wanted(
    tuple(f"decoder_{part}.{kind}" for part in ("embed", "norm", "pred") for kind in ("weight", "bias")),
    holders=("decoder",),
)
"""By which a decoder is found, in its own checkpoint or in a whole autoencoder's (`encoder.*`, `decoder.*`)."""
SIZES: dict[str, dict[str, Value]] = {
    "rae-decoder": {},
    "rae-decoder-l": {"decoder_hidden_size": 1024, "decoder_num_hidden_layers": 24},
    "rae-decoder-b": {
        "decoder_hidden_size": 768,
        "decoder_num_hidden_layers": 12,
        "decoder_num_attention_heads": 12,
        "decoder_intermediate_size": 3072,
    },
}
"""Over `RaeDecoderConfig`'s defaults, which are ViT-XL's. Source: the released configurations."""
_DEFAULTS: dict[str, Value] = dataclasses.asdict(RaeDecoderConfig())


def load(asked: FamilyRequest) -> Subject:
    """Loads a decoder: `z [batch, C, h, w]` -> `image [batch, 3, H, W]`, as normalised for its encoder.

    Its options are sizes; `latent_stats`: a file of latent statistics, with which `z` is denormalised first; and
    `encoder`: the family whose pixels the image has, which is recorded for those who show it.
    Raises ExportError for whatever does not fit; see `families.load`.
    """
    name, checkpoint, config = asked.model, asked.weight_file, asked.options
    if asked.registers is not None or asked.replace:
        raise ExportError(f"{name} has no registers: it decodes latents", hint="leave out --registers and --dsr")
    _check_options(name, config)
    found = None if checkpoint is None else read_checkpoint(checkpoint, KNOWN_NAMES)
    state = None if found is None else found.state
    sizes = {**SIZES[name], **({} if state is None else sizes_of(state))}
    sizes |= {key: value for key, value in config.items() if key not in (STATISTICS, ENCODER)}
    resolved = RaeDecoderConfig(**sizes)  # type: ignore[arg-type]
    _check_sizes(resolved)
    if state is not None:
        _check_variant(name, resolved, state)
        module = decoder_from_state(resolved, state)
    else:
        assert asked.random_weights is not None  # checked by families.load
        module = random_decoder(resolved, asked.random_weights)
    provenance: dict[str, Any] = {"random_seed": asked.random_weights}
    if checkpoint is not None and found is not None:
        provenance = {"checkpoint_sha256": file_sha256(checkpoint.path), "weights": found.origin}
    if STATISTICS in config:
        shape = (resolved.hidden_size, resolved.latent_size, resolved.latent_size)
        module.head = LatentDenormalisation(*read_statistics(Path(str(config[STATISTICS])), shape))
    return _subject(name, module, str(config.get(ENCODER, DEFAULT_ENCODER)), provenance)


def decoder_from_state(config: RaeDecoderConfig, state: StateDict) -> RaeDecoder:
    """Loads strictly; the fixed positions may be absent, as they can be computed."""
    module = without_memory(RaeDecoder, config)
    load_into(module, {"decoder_pos_embed": position_table(config), **state})
    return module


@torch.no_grad()
def random_decoder(config: RaeDecoderConfig, seed: int) -> RaeDecoder:
    """A decoder whose weights depend on `config` and `seed` alone; scales keep activations near unit variance."""
    module = without_memory(RaeDecoder, config)
    check_memory(sum(weight.numel() for weight in module.parameters()), "the decoder")
    module.to_empty(device="cpu")
    draw_weights(module, seed, _moments)
    module.decoder_pos_embed.copy_(position_table(config))
    return module


def sizes_of(state: Mapping[str, Tensor]) -> dict[str, Value]:
    """Sizes that can be read off a checkpoint's shapes: latent channels and side, and the patch."""
    sizes: dict[str, Value] = {}
    embed, position, predict = (
        state.get(key) for key in ("decoder_embed.weight", "decoder_pos_embed", "decoder_pred.weight")
    )
    if embed is not None and embed.ndim == 2:
        sizes["hidden_size"] = embed.shape[1]
    if position is not None and position.ndim == 3:
        sizes["latent_size"] = math.isqrt(max(position.shape[1] - 1, 0))
    if predict is not None and predict.ndim == 2:
        sizes["patch_size"] = math.isqrt(predict.shape[0] // RaeDecoderConfig.num_channels)
    return sizes


def _subject(name: str, module: RaeDecoder, encoder: str, provenance: dict[str, Any]) -> Subject:
    config = module.config
    latent = ("batch", config.hidden_size, config.latent_size, config.latent_size)
    image = ("batch", config.num_channels, config.image_size, config.image_size)
    return Subject(
        name=name,
        family="rae-decoder",
        module=module.eval().requires_grad_(False),
        inputs=(TensorSpec(name="z", dtype="float32", shape=latent),),
        outputs=(TensorSpec(name="image", dtype="float32", shape=image),),
        dsr=DsrSpec(),
        config={**dataclasses.asdict(config), ENCODER: encoder},
        provenance=provenance,
        outer_modules=OUTER_MODULES,
    )


def _moments(name: str, weight: Tensor) -> Moments:
    return (0.0, 0.5) if name == "trainable_cls_token" else usual_moments(name, weight)


def _check_options(name: str, options: Mapping[str, Value]) -> None:
    known = (*_DEFAULTS, STATISTICS, ENCODER)
    for key, value in options.items():
        if key not in known:
            names = "known options: " + ", ".join(known)
            near = did_you_mean(key, known)
            raise ExportError(f"{name} has no option '{key}'", hint=f"{near} {names}" if near else names)
        wanted = str if key in (STATISTICS, ENCODER) else type(_DEFAULTS[key])
        if type(value) is not wanted:
            raise ExportError(f"option {key}={value!r} is not of type {wanted.__name__}")
    encoder = str(options.get(ENCODER, DEFAULT_ENCODER))
    if encoder not in PREPARATIONS:
        hint = did_you_mean(encoder, PREPARATIONS) or "known encoders: " + ", ".join(PREPARATIONS)
        raise ExportError(f"how the pixels of the encoder '{encoder}' are scaled is not known", hint=hint)


def _check_sizes(config: RaeDecoderConfig) -> None:
    for name, value in dataclasses.asdict(config).items():
        if type(value) is int and value < 1:
            raise ExportError(f"{name} is {value}, but must be at least 1")
    check_config(dataclasses.asdict(config), "the decoder's sizes")
    hidden, heads = config.decoder_hidden_size, config.decoder_num_attention_heads
    if hidden % heads:
        raise ExportError(f"decoder_hidden_size {hidden} is not divisible by decoder_num_attention_heads {heads}")
    if hidden % 4:
        raise ExportError(f"decoder_hidden_size {hidden} is not divisible by 4, as 2-D sin-cos positions need")
    if not 0 <= config.layer_norm_eps < math.inf:
        raise ExportError(f"layer_norm_eps {config.layer_norm_eps} is not a number from 0")


def _check_variant(name: str, config: RaeDecoderConfig, state: Mapping[str, Tensor]) -> None:
    """A checkpoint of another registered size is named at once, rather than by 300 shape mismatches."""
    bias = state.get("decoder_embed.bias")
    depth = len({key.split(".")[1] for key in state if key.startswith("decoder_layers.")})
    if (
        bias is None
        or not depth
        or (len(bias), depth) == (config.decoder_hidden_size, config.decoder_num_hidden_layers)
    ):
        return
    sizes = {size: RaeDecoderConfig(**values) for size, values in SIZES.items()}  # type: ignore[arg-type]
    fitting = [
        size for size, c in sizes.items() if (c.decoder_hidden_size, c.decoder_num_hidden_layers) == (len(bias), depth)
    ]
    raise ExportError(
        f"the checkpoint has hidden size {len(bias)} and {depth} layers, "
        f"'{name}' {config.decoder_hidden_size} and {config.decoder_num_hidden_layers}",
        hint=f"use {fitting[0]}" if fitting else "give decoder_hidden_size and decoder_num_hidden_layers",
    )
