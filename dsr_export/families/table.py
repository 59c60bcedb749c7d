"""The one table of registered models: a new family is one folder with a function
`load(FamilyRequest) -> Subject`, and its entries here.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dsr_export.errors import ExportError, did_you_mean
from dsr_export.families.declared import Stage
from dsr_export.families.diffusers.supported import SUPPORTED


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


_DIGITS = "dsr_export.families.rae_dit.digits:load"
_RAE_DIT = "dsr_export.families.rae_dit.models:load"
_RAE_DIT_DH = "dsr_export.families.rae_dit.wide_head_models:load"
_DIT = "dsr_export.families.dit.models:load"
_JIT = "dsr_export.families.jit.models:load"
_DIFFUSERS = "dsr_export.families.diffusers.models:load"
_ENCODER = "dsr_export.families.encoders.models:load"
_RAE_DECODER = "dsr_export.families.decoder.models:load"


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
    ModelEntry(
        name="digits-gated",
        family="rae-dit",
        description="digits-outliers with trained registers and a trained gate, made by `dsr-export fit`",
        packaged=True,
        parameters=2_243_077,
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
    _encoder("siglip2", 85_841_664, "SigLIP2 image encoders in the NaFlex form, at one grid of patches"),
    _encoder("clip", 85_797_120, "CLIP image encoders"),
    _encoder("dinov2", 85_722_624, "DINOv2 image encoders without registers; test-time registers by --dsr"),
    _encoder("dinov2-with-registers", 85_725_696, "DINOv2 image encoders with trained registers"),
    _encoder("dinov3", 85_808_640, "DINOv3 image encoders with trained registers and rotary positions"),
    _encoder("mae", 85_796_352, "MAE image encoders, nothing masked"),
    _encoder("vit", 85_796_352, "any other vision transformer of transformers, by its structure"),
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
    *(_diffusers(each.name, each.class_name) for each in SUPPORTED),
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
