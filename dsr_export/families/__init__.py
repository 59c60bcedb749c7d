"""Model families. This file holds the one table of registered models, and imports no torch.

A new family is one file with a `load` function, and its entries below.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from dsr_export.dsr_file import dsr_digest
from dsr_export.errors import ExportError, did_you_mean
from dsr_export.families.declared import Stage, with_declaration
from dsr_export.families.folders import folder_sha256
from dsr_export.spec import ReplaceSpec
from dsr_export.subject import Subject
from graphs.artifacts import files_digest

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

JSON: TypeAlias = bool | int | float | str | list["JSON"] | dict[str, "JSON"] | None
Value: TypeAlias = bool | int | float | str
MAX_SEED = 2**63 - 1
FILE_OPTIONS = ("latent_stats", "register_file")
"""Options that name a file: they count by its content."""


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """A registered model. `parameters` counts weights as built without options; `load` is `module:function`."""

    name: str
    family: str
    description: str
    packaged: bool
    parameters: int | None
    load: str
    stage: Stage = "denoiser"


_DIGITS = "dsr_export.families.digits:load"
_RAE_DIT = "dsr_export.families.rae_dit_models:load"
_RAE_DIT_DH = "dsr_export.families.rae_dit_dh_models:load"
_DIT = "dsr_export.families.dit_models:load"
_JIT = "dsr_export.families.jit_models:load"
_DIFFUSERS = "dsr_export.families.diffusers_models:load"
_ENCODER = "dsr_export.families.encoders:load"
_RAE_DECODER = "dsr_export.families.rae_decoder_models:load"


def _rae_dit(letter: str, parameters: int) -> ModelEntry:
    return ModelEntry(
        name=f"rae-dit-{letter.lower()}",
        family="rae-dit",
        description=f"RAE LightningDiT-{letter} with diffusion registers, 16x16x768 latents, 1000 classes",
        packaged=False,
        parameters=parameters,
        load=_RAE_DIT,
    )


def _rae_dit_dh(letter: str, parameters: int) -> ModelEntry:
    return ModelEntry(
        name=f"rae-dit-dh-{letter.lower()}",
        family="rae-dit-dh",
        description=f"RAE DiT-{letter} with a wide DDT head and diffusion registers, 16x16x768 latents, 1000 classes",
        packaged=False,
        parameters=parameters,
        load=_RAE_DIT_DH,
    )


_DIT_PARAMETERS = {
    "S": {2: 32_963_360, 4: 32_945_024, 8: 33_148_160},
    "B": {2: 130_512_416, 4: 130_475_648, 8: 130_881_536},
    "L": {2: 458_102_816, 4: 458_053_760, 8: 458_594_816},
    "XL": {2: 675_129_632, 4: 675_074_432, 8: 675_683_072},
}
_JIT_PARAMETERS = {
    "B": {16: 131_320_320, 32: 133_387_008},
    "L": {16: 459_139_808, 32: 461_796_320},
    "H": {16: 952_842_048, 32: 956_383_296},
}


def _by_patch(
    family: str, title: str, takes: str, load: str, parameters: Mapping[str, Mapping[int, int]]
) -> tuple[ModelEntry, ...]:
    """`family-size-patch` for each number of parameters by size and patch."""
    return tuple(
        ModelEntry(
            name=f"{family}-{letter.lower()}-{patch}",
            family=family,
            description=f"{title}-{letter}/{patch}, {takes}, 1000 classes",
            packaged=False,
            parameters=count,
            load=load,
        )
        for letter, by_patch in parameters.items()
        for patch, count in by_patch.items()
    )


def _any_size(family: str, title: str, load: str) -> ModelEntry:
    return ModelEntry(
        name=family,
        family=family,
        description=f"{title} of any size: give hidden_size, depth and num_heads",
        packaged=False,
        parameters=None,
        load=load,
    )


def _encoder(name: str, parameters: int, description: str) -> ModelEntry:
    return ModelEntry(
        name=name,
        family=name,
        description=description,
        packaged=False,
        parameters=parameters,
        load=_ENCODER,
        stage="encoder",
    )


def _diffusers(name: str, class_name: str) -> ModelEntry:
    return ModelEntry(
        name=name,
        family="diffusers",
        description=f"{class_name} of any size; for a released one give --model-dir",
        packaged=False,
        parameters=None,
        load=_DIFFUSERS,
    )


def _rae_decoder(suffix: str, size: str, parameters: int) -> ModelEntry:
    return ModelEntry(
        name=f"rae-decoder{suffix}",
        family="rae-decoder",
        description=f"RAE ViT-{size} decoder, 16x16x768 latents to 256x256 images",
        packaged=False,
        parameters=parameters,
        load=_RAE_DECODER,
        stage="decoder",
    )


_MODELS = (
    ModelEntry(
        name="digits",
        family="rae-dit",
        description="trained 16x16 digits denoiser with 4 diffusion registers (the default)",
        packaged=True,
        parameters=2_241_924,
        load=_DIGITS,
    ),
    ModelEntry(
        name="digits-outliers",
        family="rae-dit",
        description="the digits denoiser with planted outlier tokens, which run-time replacement removes",
        packaged=True,
        parameters=2_241_924,
        load=_DIGITS,
    ),
    _rae_dit("S", 33_677_440),
    _rae_dit("B", 131_939_584),
    _rae_dit("L", 459_997_152),
    _rae_dit("XL", 677_331_328),
    _rae_dit_dh("S", 196_630_868),
    _rae_dit_dh("XL", 838_906_196),
    *_by_patch("dit", "DiT", "32x32x4 latents", _DIT, _DIT_PARAMETERS),
    *_by_patch("sit", "SiT", "32x32x4 latents", _DIT, _DIT_PARAMETERS),
    *_by_patch("jit", "JiT", "pixels", _JIT, _JIT_PARAMETERS),
    _encoder("siglip", 85_841_664, "SigLIP and fixed-resolution SigLIP2 image encoders; test-time registers by --dsr"),
    _encoder("dinov2", 85_722_624, "DINOv2 image encoders without registers; test-time registers by --dsr"),
    _encoder("dinov2-with-registers", 85_725_696, "DINOv2 image encoders with trained registers"),
    _rae_decoder("", "XL", 415_352_704),
    _rae_decoder("-l", "L", 304_150_272),
    _rae_decoder("-b", "B", 86_435_328),
)
_FREE = (
    ModelEntry(
        name="rae-dit",
        family="rae-dit",
        description="RAE LightningDiT of any size: give hidden_size, depth and num_heads",
        packaged=False,
        parameters=None,
        load=_RAE_DIT,
    ),
    ModelEntry(
        name="rae-dit-dh",
        family="rae-dit-dh",
        description="RAE DiT with a wide DDT head: give hidden_size, depth and num_heads as pairs",
        packaged=False,
        parameters=None,
        load=_RAE_DIT_DH,
    ),
    _any_size("dit", "DiT", _DIT),
    _any_size("sit", "SiT", _DIT),
    _any_size("jit", "JiT", _JIT),
    _diffusers("sd3", "SD3Transformer2DModel"),
    _diffusers("flux", "FluxTransformer2DModel"),
    _diffusers("pixart", "PixArtTransformer2DModel"),
    _diffusers("diffusers-dit", "DiTTransformer2DModel"),
)
"""Models of a free configuration."""


def models() -> tuple[ModelEntry, ...]:
    """Registered models, the default first. Those of a free configuration are accepted too, but not listed."""
    return _MODELS


def entry(name: str) -> ModelEntry:
    """The registered model called `name`; ExportError, naming the nearest and all of them, where there is none."""
    known = {model.name: model for model in (*_MODELS, *_FREE)}
    if name not in known:
        names = "registered models: " + ", ".join(model.name for model in _MODELS)
        near = did_you_mean(name, known)
        raise ExportError(f"no model is called '{name}'", hint=f"{near} {names}" if near else names)
    return known[name]


def load_subject(
    model: str,
    *,
    checkpoint: Path | None = None,
    random_weights: int | None = None,
    registers: int | None = None,
    replace: Sequence[ReplaceSpec] | None = None,
    dsr: Path | None = None,
    **config: Value,
) -> Subject:
    """Loads a registered model as a `Subject`: float32, eval mode, on the CPU.

    Weights are the checkpoint's, or drawn from the seed `random_weights`, or the packaged ones; never random
    silently. `registers` is R (0: none; None: what the checkpoint or the model has), `replace` the replacement
    groups (None: the model's own), `dsr` a TOML file that declares both, `config` any constructor arguments of the
    family.
    Raises ExportError for names, options, values and files that do not fit.
    """
    found = entry(model)
    check_weights(found, checkpoint, random_weights)
    declared = with_declaration(found.name, found.stage, dsr, registers=registers, replace=replace, config=config)
    module, _, function = found.load.partition(":")
    load = getattr(importlib.import_module(module), function)
    subject: Subject = load(found.name, checkpoint=checkpoint, random_weights=random_weights, **declared)
    return subject


def subject_key(
    model: str,
    checkpoint: Path | None = None,
    random_weights: int | None = None,
    registers: int | None = None,
    *,
    replace: Sequence[ReplaceSpec] | None = None,
    dsr: Path | None = None,
    **config: Value,
) -> dict[str, JSON]:
    """What identifies `load_subject` of the same arguments, for the stage cache; needs no torch.

    Files count by their sha256, not by their path. Raises ExportError where one is missing.
    """
    found = entry(model)
    check_weights(found, checkpoint, random_weights)
    packaged = found.packaged and checkpoint is None and random_weights is None
    return {
        "model": found.name,
        "checkpoint_sha256": _checkpoint_sha256(checkpoint) if checkpoint else None,
        "packaged_sha256": packaged_sha256() if found.packaged else None,
        "packaged_weights": packaged,
        "random_weights": random_weights,
        "registers": registers,
        "replace": None if replace is None else [_group_key(group) for group in replace],
        "dsr_sha256": dsr_digest(dsr) if dsr else None,
        "config": {key: option_key(key, value) for key, value in sorted(config.items())},
    }


def packaged_asset(name: str) -> Traversable:
    """A file of `dsr_export/assets/digits`; ExportError where the installation lacks it."""
    found = resources.files("dsr_export").joinpath("assets", "digits", name)
    if not found.is_file():
        raise ExportError(f"the installation lacks its packaged file assets/digits/{name}", hint="install it again")
    return found


def packaged_sha256() -> str:
    """sha256 over the packaged configuration and weights."""
    digest = hashlib.sha256(packaged_asset("config.json").read_bytes())
    digest.update(packaged_asset("weights.safetensors").read_bytes())
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """sha256 of a user's file; ExportError where there is none."""
    if not path.is_file():
        raise ExportError(f"no such file: {path}", hint="check the path")
    return files_digest([path])


def _checkpoint_sha256(path: Path) -> str:
    return folder_sha256(path) if path.is_dir() else file_sha256(path)


def option_key(name: str, value: Value) -> JSON:
    """What an option counts as in a cache key: a file by its content."""
    return file_sha256(Path(str(value))) if name in FILE_OPTIONS else value


def _group_key(group: ReplaceSpec) -> dict[str, JSON]:
    own = group.registers == "diffusion"
    return {**dataclasses.asdict(group), "registers": "diffusion" if own else file_sha256(Path(group.registers))}


def check_weights(found: ModelEntry, checkpoint: Path | None, seed: int | None) -> None:
    """Refuses two kinds of weights, none for a model without packaged ones, and an impossible seed."""
    if checkpoint is not None and seed is not None:
        raise ExportError("--checkpoint and --random-weights exclude each other", hint="give one of them")
    if checkpoint is None and seed is None and not found.packaged:
        raise ExportError(
            f"model '{found.name}' has no packaged weights", hint="give --checkpoint FILE or --random-weights SEED"
        )
    if seed is not None and not 0 <= seed <= MAX_SEED:
        raise ExportError(f"--random-weights {seed} is no seed", hint=f"give a number from 0 to {MAX_SEED}")
