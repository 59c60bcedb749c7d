"""The families of `vision_families`: image -> patch tokens, or the denoiser's latent.

`image [batch, 3, H, W]` is float32 as the model's image processor makes it: resized, scaled to [0, 1], minus its
mean, over its standard deviation (SigLIP 0.5 and 0.5; DINO and MAE ImageNet's). `siglip2`, the NaFlex form, reads
`patches [batch, N, 3 * p * p]` as its processor cuts them, of one grid.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dsr_export.errors import ExportError, did_you_mean
from dsr_export.families.digests import folder_sha256
from dsr_export.families.encoders import combination, final_norm, resolution
from dsr_export.families.encoders.transformers_vision import encoder_from_folder, random_encoder
from dsr_export.families.encoders.vision_encoder import VisionEncoder, randomise
from dsr_export.families.encoders.vision_families import FAMILIES, Value
from dsr_export.families.inserted_registers import read_registers
from dsr_export.families.network_parts.latents import LatentNormalisation, read_statistics
from dsr_export.families.request import FamilyRequest
from dsr_export.spec import DsrSpec, EncoderSpec
from dsr_export.subject import Subject
from graphs.artifacts import TensorSpec

OUTER_MODULES = ("projection", "tail")
"""Small, and not quantised: the patch embedding's sums run over hundreds of pixels, and the latent is the output."""
STATISTICS = "latent_stats"
OPTIONS = (*resolution.OPTIONS, *combination.OPTIONS, final_norm.OPTION, STATISTICS)
"""Of a model whose other sizes its folder says."""
_TEXTS = ("combine", final_norm.OPTION, STATISTICS)


def load(asked: FamilyRequest) -> Subject:
    """Loads an encoder from a Hugging Face folder, or with random weights and the sizes in the options.

    Among these are `OPTIONS`: the resolution, which layers make the output (`Combination`), through which final norm,
    and `latent_stats`, a file of latent statistics: the output is then `z`, normalised for the denoiser.
    `asked.encoder` declares test-time registers; without it, the checkpoint's own registers are all there is.
    Raises ExportError for whatever does not fit; see `families.load`.
    """
    name, checkpoint, config = asked.model, asked.weight_file, asked.options
    _refuse_denoiser_options(asked)
    _check_options(name, config, random=checkpoint is None)
    if checkpoint is not None:
        if checkpoint.entry is not None:
            raise ExportError(f"--weights does not apply to {name}, whose checkpoint is a folder", hint="leave it out")
        encoder = encoder_from_folder(name, checkpoint.path, config)
        provenance: dict[str, Any] = {"checkpoint_sha256": folder_sha256(checkpoint.path)}
    else:
        assert asked.random_weights is not None  # checked by families.load
        encoder = random_encoder(name, config)
        randomise(encoder, asked.random_weights)
        provenance = {"random_seed": asked.random_weights}
    spec = with_registers(name, encoder, asked.encoder)
    if STATISTICS in config:
        encoder.tail = _tail(encoder, Path(str(config[STATISTICS])))
    return encoder_subject(name, encoder, spec, provenance)


def encoder_subject(name: str, encoder: VisionEncoder, spec: EncoderSpec, provenance: dict[str, Any]) -> Subject:
    """`encoder` as a subject. Its output is `z` where a tail makes the denoiser's latent of its tokens."""
    rows, columns = encoder.grid
    tokens = TensorSpec(name="tokens", dtype="float32", shape=("batch", encoder.patches, encoder.channels))
    latent = TensorSpec(name="z", dtype="float32", shape=("batch", encoder.channels, rows, columns))
    chosen = encoder.combination
    return Subject(
        name=name,
        family=name,
        module=encoder.eval().requires_grad_(False),
        inputs=(_input(encoder),),
        outputs=(tokens if encoder.tail is None else latent,),
        dsr=DsrSpec(encoder=spec),
        config={
            "grid": list(encoder.grid),
            "patch_size": None if encoder.patch is None else encoder.patch[0],
            "hidden_size": encoder.channels,
            "num_hidden_layers": len(encoder.layers),
            "output_layers": list(chosen.layers),
            "combine": chosen.how,
            "plus_mean": chosen.plus_mean,
            "latent": encoder.tail is not None,
        },
        provenance=provenance,
        outer_modules=OUTER_MODULES,
    )


def _input(encoder: VisionEncoder) -> TensorSpec:
    patch, values = encoder.patch, encoder.channels_in
    if patch is None:
        return TensorSpec(name="patches", dtype="float32", shape=("batch", encoder.patches, values))
    size = tuple(count * side for count, side in zip(encoder.grid, patch, strict=True))
    return TensorSpec(name="image", dtype="float32", shape=("batch", values, *size))


def with_registers(name: str, encoder: VisionEncoder, spec: EncoderSpec | None) -> EncoderSpec:
    """What is declared, held against what the model has; others are appended, whatever else it has."""
    trained = encoder.trained_registers
    if spec is None:
        return EncoderSpec(kind="trained", registers=trained) if trained else EncoderSpec()
    if spec.kind == "test-time":
        encoder.add_test_time_registers(spec)
        return spec
    if spec.kind == "appended":
        return _appended(encoder, spec)
    if (spec.kind == "trained") != (trained > 0):
        has = f"{trained} trained registers" if trained else "no trained registers"
        right = "'trained' or 'test-time'" if trained else "'test-time' or 'none'"
        raise ExportError(f"--dsr declares kind '{spec.kind}', but {name} has {has}", hint=f"set kind to {right}")
    if spec.registers not in (0, trained):
        raise ExportError(f"--dsr declares {spec.registers} trained registers, but {name} has {trained}")
    return dataclasses.replace(spec, registers=trained)


def _appended(encoder: VisionEncoder, spec: EncoderSpec) -> EncoderSpec:
    file = Path(spec.register_file)
    rows = read_registers(file, encoder.channels)
    if spec.registers not in (0, len(rows)):
        raise ExportError(f"--dsr declares {spec.registers} appended registers, and {file} holds {len(rows)}")
    encoder.append_trained(rows)
    return dataclasses.replace(spec, registers=len(rows))


def _tail(encoder: VisionEncoder, path: Path) -> LatentNormalisation:
    return LatentNormalisation(*read_statistics(path, (encoder.channels, *encoder.grid)))


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
    known = (*dict.fromkeys((*base, *OPTIONS)),) if random else OPTIONS
    for key, value in options.items():
        if key not in known:
            names = "known options: " + ", ".join(known)
            near = did_you_mean(key, known)
            raise ExportError(f"{name} has no option '{key}'", hint=f"{near} {names}" if near else names)
        wanted = _type(key, base if random else {})
        if wanted is not None and type(value) is not wanted:
            raise ExportError(f"option {key}={value!r} is not of type {wanted.__name__}")
        if wanted is int and int(value) < 1 and key != "num_register_tokens":
            raise ExportError(f"option {key}={value!r} must be at least 1")


def _type(key: str, base: Mapping[str, Value]) -> type | None:
    """Of an option; None where its reader takes several."""
    if key in _TEXTS:
        return str
    free = {"plus_mean": bool, "last_layers": int, "layers": None, "grid": None, "image_size": None}
    return type(base[key]) if key in base else free[key]
