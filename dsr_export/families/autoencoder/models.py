"""The encoder, or the decoder, of a diffusers `AutoencoderRAE`, from its folder.

Both are built here of the parts that this tool has: image [0, 1] -> z, and z -> image [0, 1], as `encode` and `decode`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dsr_export.checkpoints import StateDict, Wanted, read_shards
from dsr_export.checkpoints.absent_weights import no_weights
from dsr_export.declarations.weight_file import WeightFile
from dsr_export.errors import ExportError
from dsr_export.families.autoencoder.config import FAMILIES, HEAD, IMAGE_SIZES, PARTS, AutoencoderFolder, part_of
from dsr_export.families.autoencoder.scaling import LatentScaling, LatentUnscaling, PixelScaling, UnscaledPixels
from dsr_export.families.declared import with_declaration
from dsr_export.families.decoder.models import decoder_from_state, random_decoder
from dsr_export.families.decoder.network import RaeDecoderConfig
from dsr_export.families.diffusers.positions import sincos_table
from dsr_export.families.digests import file_sha256
from dsr_export.families.encoders.models import with_registers
from dsr_export.families.encoders.transformers_vision import encoder_from_state, random_encoder
from dsr_export.families.encoders.vision_encoder import randomise
from dsr_export.families.request import FamilyRequest
from dsr_export.spec import DsrSpec
from dsr_export.subject import Subject
from graphs.artifacts import TensorSpec
from graphs.digests import files_digest

FAMILY = "autoencoder-rae"
KNOWN_NAMES = Wanted(
    tuple(f"decoder.decoder_{part}.{kind}" for part in ("embed", "pred") for kind in ("weight", "bias"))
)
_TABLES = ("encoder_mean", "encoder_std", "_latents_mean", "_latents_std")
_BASE_GRID = 16
_COMPUTED = "decoder_pos_embed"  # stored by some, and never read by diffusers
_RENAMED = (
    (r"\.attention\.to_q\.", ".attention.attention.query."),
    (r"\.attention\.to_k\.", ".attention.attention.key."),
    (r"\.attention\.to_v\.", ".attention.attention.value."),
    (r"\.attention\.to_out\.0\.", ".attention.output.dense."),
)
"""Names of diffusers' decoder -> those of the released checkpoints."""


def load_part(folder: AutoencoderFolder, asked: FamilyRequest) -> Subject:
    """The part of `folder` that `asked.options` name. Raises ExportError for whatever does not fit."""
    part = part_of(asked.options)
    if asked.registers is not None or asked.replace:
        raise ExportError("--registers is for denoisers; an autoencoder has none", hint="leave it out")
    declared = with_declaration(asked, part)
    weights, provenance = _weights(folder, declared)
    make = _encoder if part == "encoder" else _decoder
    return make(folder, declared, weights, {"config_sha256": file_sha256(folder.path / "config.json"), **provenance})


def _weights(folder: AutoencoderFolder, asked: FamilyRequest) -> tuple[StateDict | int, dict[str, Any]]:
    if asked.random_weights is not None:
        return asked.random_weights, {"random_seed": asked.random_weights}
    paths: Sequence[Path] = folder.weights if asked.checkpoint is None else (asked.checkpoint,)
    if not paths:
        hint = "give --checkpoint FILE, or --random-weights SEED to try out the architecture"
        raise no_weights(folder.path, f"{folder.path} holds no weights", hint=hint)
    found = read_shards([WeightFile(path, asked.weights) for path in paths], KNOWN_NAMES)
    _check_names(folder, found.state)
    return found.state, {"checkpoint_sha256": files_digest(list(paths)), "weights": found.origin}


def _check_names(folder: AutoencoderFolder, state: Mapping[str, Tensor]) -> None:
    unknown = [name for name in state if not name.startswith(("encoder.", "decoder.")) and name not in _TABLES]
    absent = [part for part in PARTS if not any(name.startswith(f"{part}.") for name in state)]
    if unknown or absent:
        problem = f"an unknown tensor '{unknown[0]}'" if unknown else f"no {absent[0]}"
        raise ExportError(f"the weights of {folder.path} hold {problem}", hint="is it the whole autoencoder's file?")


def _encoder(
    folder: AutoencoderFolder, asked: FamilyRequest, weights: StateDict | int, provenance: dict[str, Any]
) -> Subject:
    values, family = folder.values, FAMILIES[folder.values["encoder_type"]]
    sizes = {
        "hidden_size": values["encoder_hidden_size"],
        "patch_size": values["encoder_patch_size"],
        "num_hidden_layers": values["encoder_num_hidden_layers"],
        "num_attention_heads": values["encoder_hidden_size"] // HEAD,
        "image_size": IMAGE_SIZES[values["encoder_type"]],
    }
    size = int(values["encoder_input_size"])
    if isinstance(weights, int):
        encoder = random_encoder(family, sizes, image_size=size)
        randomise(encoder, weights)
    else:
        encoder = encoder_from_state(family, sizes, _inner(weights, "encoder"), image_size=size)
    spec = with_registers(asked.model, encoder, asked.encoder)
    mean, std = _latent_statistics(folder, weights)
    encoder.head = _pixels(folder, weights)
    encoder.tail = LatentScaling(mean, std, factor=float(values["scaling_factor"]), grid=_latent_grid(folder))
    image = TensorSpec(name="image", dtype="float32", shape=("batch", encoder.channels_in, size, size))
    dsr, outer = DsrSpec(encoder=spec), ("head", "projection", "tail")
    return _subject(asked.model, encoder, (image,), (_latent(folder),), dsr, outer, folder, provenance)


def _decoder(
    folder: AutoencoderFolder, asked: FamilyRequest, weights: StateDict | int, provenance: dict[str, Any]
) -> Subject:
    values = folder.values
    config = RaeDecoderConfig(
        hidden_size=values["encoder_hidden_size"],
        latent_size=folder.grid,
        patch_size=values["patch_size"],
        num_channels=values["num_channels"],
        **{name: value for name, value in values.items() if name.startswith("decoder_")},
    )
    if isinstance(weights, int):
        network = random_decoder(config, weights)
    else:
        network = decoder_from_state(config, _decoder_state(weights))
    network.decoder_pos_embed.data.copy_(_positions(config))
    mean, std = _latent_statistics(folder, weights)
    network.head = LatentUnscaling(mean, std, factor=float(values["scaling_factor"]), grid=_latent_grid(folder))
    module = UnscaledPixels(network, _pixels(folder, weights))
    side = config.image_size
    image = TensorSpec(name="image", dtype="float32", shape=("batch", config.num_channels, side, side))
    outer = ("decoder.head", "decoder.decoder_embed", "decoder.decoder_pred", "scaling")
    return _subject(asked.model, module, (_latent(folder),), (image,), DsrSpec(), outer, folder, provenance)


def _subject(
    name: str,
    module: Any,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    dsr: DsrSpec,
    outer: tuple[str, ...],
    folder: AutoencoderFolder,
    provenance: dict[str, Any],
) -> Subject:
    told = ("latents_mean", "latents_std")  # as long as the latent
    return Subject(
        name=name,
        family=FAMILY,
        module=module.eval().requires_grad_(False),
        inputs=inputs,
        outputs=outputs,
        dsr=dsr,
        config={**{key: value for key, value in folder.values.items() if key not in told}, "encoder": FAMILY},
        provenance=provenance,
        outer_modules=outer,
    )


def _latent(folder: AutoencoderFolder) -> TensorSpec:
    channels, grid = int(folder.values["encoder_hidden_size"]), folder.grid
    shape = ("batch", channels, grid, grid) if folder.values["reshape_to_2d"] else ("batch", grid * grid, channels)
    return TensorSpec(name="z", dtype="float32", shape=shape)


def _latent_grid(folder: AutoencoderFolder) -> int | None:
    return folder.grid if folder.values["reshape_to_2d"] else None


def _pixels(folder: AutoencoderFolder, weights: StateDict | int) -> PixelScaling:
    mean, std = (_table(folder, weights, f"encoder_{kind}", f"encoder_norm_{kind}") for kind in ("mean", "std"))
    if mean.numel() != 3 or std.numel() != 3:
        raise ExportError(f"{folder.path}: mean and std of pixels are not three numbers each", hint="it needs RGB")
    return PixelScaling(mean.reshape(1, 3, 1, 1), std.reshape(1, 3, 1, 1))


def _latent_statistics(folder: AutoencoderFolder, weights: StateDict | int) -> tuple[Tensor, Tensor]:
    """Mean and deviation as stored, of any shape that the latent broadcasts with."""
    shape = [1 if size == "batch" else int(size) for size in _latent(folder).shape]
    found = []
    for kind, plain in (("mean", 0.0), ("std", 1.0)):
        values = _table(folder, weights, f"_latents_{kind}", f"latents_{kind}", plain)
        fits = values.ndim <= len(shape) and all(
            have in (1, want) for have, want in zip(values.shape[::-1], shape[::-1], strict=False)
        )
        if not fits:
            raise ExportError(
                f"{folder.path}: latents_{kind} {list(values.shape)} does not fit latents {shape}",
                hint="the statistics were made for another encoder",
            )
        found.append(values)
    return found[0], found[1]


def _table(folder: AutoencoderFolder, weights: StateDict | int, stored: str, named: str, plain: float = 0.0) -> Tensor:
    """What the weights hold, else the config; else `plain`."""
    if not isinstance(weights, int) and stored in weights:
        return weights[stored].float()
    value = folder.values[named]
    try:
        made = torch.tensor([plain] if value is None else value, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ExportError(
            f"{folder.path}: {named} is no table of numbers", hint="compare it with the model's own"
        ) from error
    if not made.isfinite().all():
        raise ExportError(f"{folder.path}: {named} holds NaN or Inf")
    return made


def _inner(state: Mapping[str, Tensor], part: str) -> StateDict:
    return {name.removeprefix(f"{part}."): tensor for name, tensor in state.items() if name.startswith(f"{part}.")}


def _positions(config: RaeDecoderConfig) -> Tensor:
    """[1, 1 + N, D]: as `position_table` for 16 x 16 patches; diffusers stretches any other grid over that length."""
    side, width = config.latent_size, config.decoder_hidden_size
    table = sincos_table(width, side, side, base=_BASE_GRID, scale=1.0)
    return torch.cat([torch.zeros(1, 1, width), table], dim=1)


def _decoder_state(state: Mapping[str, Tensor]) -> StateDict:
    """Under the names of `RaeDecoder`."""
    made: StateDict = {}
    for name, tensor in _inner(state, "decoder").items():
        for pattern, other in _RENAMED:
            name = re.sub(pattern, other, name)
        made[name] = tensor
    return {name: tensor for name, tensor in made.items() if name != _COMPUTED}
