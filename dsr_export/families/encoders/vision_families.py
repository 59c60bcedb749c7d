"""The vision families: classes in `transformers`, base sizes, and what a folder says of itself. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsr_export.checkpoints.absent_weights import no_weights
from dsr_export.checkpoints.stored_types import check_stored_types
from dsr_export.errors import ExportError
from dsr_export.families.config_bounds import check_config
from graphs.foreign.small_files import read_json_object

Value = bool | int | float | str


@dataclass(frozen=True, kw_only=True)
class VisionFamily:
    """Classes of a family, and the sizes of its base model; option names are those of its `config.json`.

    A folder's model is of one of `model_types`, or with `any_type` of whatever type transformers knows.
    """

    config_class: str
    model_class: str
    model_types: tuple[str, ...]
    base: Mapping[str, Value]
    any_type: bool = False


_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
_PLAIN = {"image_size": 224, "patch_size": 16, **_BASE, "intermediate_size": 3072}
_DINOV2 = {
    "image_size": 224,
    "patch_size": 14,
    **_BASE,
    "mlp_ratio": 4,
    "use_swiglu_ffn": False,
}
FAMILIES: Mapping[str, VisionFamily] = {
    # Fixed-resolution SigLIP2 checkpoints, such as siglip2-base-patch16-256, are of type `siglip`.
    "siglip": VisionFamily(
        config_class="SiglipVisionConfig",
        model_class="SiglipVisionModel",
        model_types=("siglip", "siglip_vision_model"),
        base={**_PLAIN, "image_size": 256},
    ),
    "siglip2": VisionFamily(
        config_class="Siglip2VisionConfig",
        model_class="Siglip2VisionModel",
        model_types=("siglip2", "siglip2_vision_model"),
        base={"num_patches": 256, "patch_size": 16, **_BASE, "intermediate_size": 3072},
    ),
    "clip": VisionFamily(
        config_class="CLIPVisionConfig",
        model_class="CLIPVisionModel",
        model_types=("clip", "clip_vision_model"),
        base={**_PLAIN, "hidden_act": "quick_gelu"},
    ),
    "dinov2": VisionFamily(
        config_class="Dinov2Config", model_class="Dinov2Model", model_types=("dinov2",), base=_DINOV2
    ),
    "dinov2-with-registers": VisionFamily(
        config_class="Dinov2WithRegistersConfig",
        model_class="Dinov2WithRegistersModel",
        model_types=("dinov2_with_registers",),
        base={**_DINOV2, "num_register_tokens": 4},
    ),
    "dinov3": VisionFamily(
        config_class="DINOv3ViTConfig",
        model_class="DINOv3ViTModel",
        model_types=("dinov3_vit",),
        base={**_PLAIN, "use_gated_mlp": False, "num_register_tokens": 4},
    ),
    "mae": VisionFamily(config_class="ViTMAEConfig", model_class="ViTMAEModel", model_types=("vit_mae",), base=_PLAIN),
    "vit": VisionFamily(
        config_class="ViTConfig", model_class="ViTModel", model_types=("vit",), base=_PLAIN, any_type=True
    ),
}


def check_folder(family: str, folder: Path) -> None:
    """Raises ExportError where `folder` lacks a file, or holds codes for weights or a model of another family."""
    if not folder.is_dir():
        raise ExportError(f"{folder} is no folder", hint="give --checkpoint the folder that holds config.json")
    config = _read_json(folder, "config.json")
    _check_type(family, folder, config.get("model_type"))
    check_config(config, str(folder / "config.json"))
    if not any((folder / name).is_file() for name in ("model.safetensors", "model.safetensors.index.json")):
        missing = f"{folder} holds no model.safetensors"
        raise no_weights(folder, missing, hint="save the model with safe_serialization=True")
    check_stored_types(folder, config)


def processed_size(folder: Path) -> int | None:
    """The side in pixels of what the folder's image processor makes, where it says so and it is square."""
    if not (folder / "preprocessor_config.json").is_file():
        return None
    config = _read_json(folder, "preprocessor_config.json")
    cropped = config.get("crop_size") is not None and config.get("do_center_crop", True)
    size = config["crop_size"] if cropped else config.get("size")
    if isinstance(size, Mapping):
        size = size.get("height") if size.get("height") == size.get("width") else None
    return size if type(size) is int and size > 0 else None


def _check_type(family: str, folder: Path, found: Any) -> None:
    if found in FAMILIES[family].model_types or (FAMILIES[family].any_type and isinstance(found, str)):
        return
    fitting = [name for name, known in FAMILIES.items() if found in known.model_types]
    other = "dsr-export build vit takes any vision transformer of transformers"
    hint = f"use: dsr-export build {fitting[0]}" if fitting else other
    raise ExportError(f"{folder} holds a model of type '{found}', not {family}", hint=hint)


def _read_json(folder: Path, name: str) -> Mapping[str, Any]:
    if not (folder / name).exists():
        raise ExportError(f"{folder} holds no {name}", hint="give --checkpoint a Hugging Face model folder")
    return read_json_object(folder / name, hint="download it again")
