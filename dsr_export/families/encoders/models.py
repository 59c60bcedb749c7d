"""The families `siglip`, `dinov2` and `dinov2-with-registers`: image -> patch tokens, or the denoiser's latent.

`image [batch, 3, H, W]` is float32 as the model's image processor makes it: resized, scaled to [0, 1], minus its
mean, over its standard deviation (SigLIP 0.5 and 0.5; DINOv2 ImageNet's).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dsr_export.errors import ExportError, did_you_mean
from dsr_export.families.digests import folder_sha256
from dsr_export.families.encoders.transformers_vision import encoder_from_folder, random_encoder
from dsr_export.families.encoders.vision_encoder import VisionEncoder, randomise
from dsr_export.families.encoders.vision_families import FAMILIES, Value
from dsr_export.families.network_parts.latents import LatentNormalisation, read_statistics
from dsr_export.families.request import FamilyRequest
from dsr_export.spec import DsrSpec, EncoderSpec
from dsr_export.subject import Subject
from graphs.artifacts import TensorSpec

OUTER_MODULES = ("projection", "tail")
"""Small, and not quantised: the patch embedding's sums run over hundreds of pixels, and the latent is the output."""
STATISTICS = "latent_stats"
_FREE_WITH_CHECKPOINT = ("image_size", STATISTICS)


def load(asked: FamilyRequest) -> Subject:
    """Loads an encoder from a Hugging Face folder, or with random weights and the sizes in the options.

    These may hold `latent_stats`, a file of latent statistics: the output is then `z`, normalised for the denoiser.
    `asked.encoder` declares test-time registers; without it, the checkpoint's own registers are all there is.
    Raises ExportError for whatever does not fit; see `families.load`.
    """
    name, checkpoint, config = asked.model, asked.weight_file, asked.options
    _refuse_denoiser_options(asked)
    _check_options(name, config, random=checkpoint is None)
    sizes = {key: value for key, value in config.items() if key != STATISTICS}
    if checkpoint is not None:
        if checkpoint.entry is not None:
            raise ExportError(f"--weights does not apply to {name}, whose checkpoint is a folder", hint="leave it out")
        size = sizes.get("image_size")
        encoder = encoder_from_folder(name, checkpoint.path, image_size=None if size is None else int(size))
        provenance: dict[str, Any] = {"checkpoint_sha256": folder_sha256(checkpoint.path)}
    else:
        assert asked.random_weights is not None  # checked by families.load
        encoder = random_encoder(name, sizes)
        randomise(encoder, asked.random_weights)
        provenance = {"random_seed": asked.random_weights}
    spec = _resolve(name, encoder, asked.encoder)
    if spec.kind == "test-time":
        encoder.add_test_time_registers(spec)
    if STATISTICS in config:
        encoder.tail = _tail(encoder, Path(str(config[STATISTICS])))
    return _subject(name, encoder, spec, provenance)


def _subject(name: str, encoder: VisionEncoder, spec: EncoderSpec, provenance: dict[str, Any]) -> Subject:
    grid, patch = math.isqrt(encoder.patches), encoder.projection.kernel_size[0]
    size = grid * patch
    tokens = TensorSpec(name="tokens", dtype="float32", shape=("batch", encoder.patches, encoder.channels))
    latent = TensorSpec(name="z", dtype="float32", shape=("batch", encoder.channels, grid, grid))
    return Subject(
        name=name,
        family=name,
        module=encoder.eval().requires_grad_(False),
        inputs=(
            TensorSpec(name="image", dtype="float32", shape=("batch", encoder.projection.in_channels, size, size)),
        ),
        outputs=(tokens if encoder.tail is None else latent,),
        dsr=DsrSpec(encoder=spec),
        config={
            "image_size": size,
            "patch_size": patch,
            "hidden_size": encoder.channels,
            "num_hidden_layers": len(encoder.layers),
            "latent": encoder.tail is not None,
        },
        provenance=provenance,
        outer_modules=OUTER_MODULES,
    )


def _resolve(name: str, encoder: VisionEncoder, spec: EncoderSpec | None) -> EncoderSpec:
    """What is declared, held against what the model has: CLS and trained registers are its prefix rows."""
    trained = max(encoder.prefix.shape[1] - 1, 0)
    if spec is None:
        return EncoderSpec(kind="trained", registers=trained) if trained else EncoderSpec()
    if (spec.kind == "trained") != (trained > 0):
        has = f"{trained} trained registers" if trained else "no trained registers"
        right = "'trained'" if trained else "'test-time' or 'none'"
        raise ExportError(f"--dsr declares kind '{spec.kind}', but {name} has {has}", hint=f"set kind to {right}")
    if spec.kind != "trained":
        return spec
    if spec.registers not in (0, trained):
        raise ExportError(f"--dsr declares {spec.registers} trained registers, but {name} has {trained}")
    return dataclasses.replace(spec, registers=trained)


def _tail(encoder: VisionEncoder, path: Path) -> LatentNormalisation:
    grid = math.isqrt(encoder.patches)
    return LatentNormalisation(*read_statistics(path, (encoder.channels, grid, grid)))


def _refuse_denoiser_options(asked: FamilyRequest) -> None:
    if asked.registers is not None:
        raise ExportError(
            f"--registers is for denoisers; {asked.model} is an encoder",
            hint="declare test-time registers with --dsr FILE",
        )
    if asked.replace:
        raise ExportError(f"run-time replacement is for denoisers; {asked.model} is an encoder")


def _check_options(name: str, options: Mapping[str, Value], *, random: bool) -> None:
    base = FAMILIES[name].base
    known = (*base, STATISTICS) if random else _FREE_WITH_CHECKPOINT
    for key, value in options.items():
        if key not in known:
            names = "known options: " + ", ".join(known)
            near = did_you_mean(key, known)
            raise ExportError(f"{name} has no option '{key}'", hint=f"{near} {names}" if near else names)
        wanted = str if key == STATISTICS else type(base[key])
        if type(value) is not wanted:
            raise ExportError(f"option {key}={value!r} is not of type {wanted.__name__}")
        if wanted is int and int(value) < 1:
            raise ExportError(f"option {key}={value!r} must be at least 1")
