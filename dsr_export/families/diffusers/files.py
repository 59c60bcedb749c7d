"""A diffusers transformer folder on disk: its config, its weight files, and the class it holds. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsr_export.errors import ExportError, did_you_mean
from dsr_export.families.config_bounds import check_config
from dsr_export.families.diffusers.general.recipes.classes import recipe_of
from dsr_export.families.diffusers.supported import SUPPORTED
from dsr_export.families.folder_weights import weight_files
from dsr_export.readable import readable
from graphs.foreign.small_files import read_json_object

CONFIG, INDEX, SUBFOLDER = "config.json", "model_index.json", "transformer"
STEMS = {".safetensors": "diffusion_pytorch_model", ".bin": "diffusion_pytorch_model"}
_AGAIN = "copy or download it again"
CLASSES = tuple(each.class_name for each in SUPPORTED)
LEGACY = "Transformer2DModel"  # one class before diffusers 0.29; its norm type says which of today's it is
_LEGACY_NORMS = {each.legacy_norm: each.class_name for each in SUPPORTED if each.legacy_norm}


@dataclass(frozen=True, kw_only=True)
class TransformerFolder:
    """`path` holds `config.json`; `name` is what the user pointed at; `pipeline` its class, where it is known.

    `weights` are the folder's weight files (several where they are sharded), none where it holds a config only.
    """

    path: Path
    name: str
    class_name: str
    config: Mapping[str, Any]
    weights: tuple[Path, ...]
    pipeline: str | None = None

    @property
    def config_file(self) -> Path:
        return self.path / CONFIG


def open_folder(folder: Path, *, own_weights: bool = True) -> TransformerFolder:
    """Reads what a transformer folder, or a pipeline folder with a `transformer/` in it, declares.

    Without `own_weights` its weight files are not looked for: others are given, and they may be anything.
    Raises ExportError for anything else, for sizes that no model has, for a class that is no transformer here, and
    for shards that are not all there.
    """
    path = _transformer_path(folder)
    config = read_json_object(path / CONFIG, hint=_AGAIN)
    check_config(config, str(path / CONFIG))
    index = path.parent / INDEX
    pipeline = read_json_object(index, hint=_AGAIN).get("_class_name") if path != folder and index.is_file() else None
    return TransformerFolder(
        path=path,
        name=readable(folder.resolve().name),
        class_name=class_of(config, path / CONFIG),
        config=config,
        weights=weight_files(path, STEMS) if own_weights else (),
        pipeline=pipeline if isinstance(pipeline, str) else None,
    )


def class_of(config: Mapping[str, Any], source: Path) -> str:
    """The diffusers class that `config` names: one that has an adapter, or a recipe, else ExportError."""
    name = config.get("_class_name")
    if not isinstance(name, str):
        hint = (
            "a transformers model is no diffusion transformer" if "model_type" in config else "is it a diffusers file?"
        )
        raise ExportError(f"{source} names no _class_name", hint=hint)
    if name == LEGACY:
        name = _LEGACY_NORMS.get(str(config.get("norm_type")), name)
    if name not in CLASSES:
        recipe_of(name, str(source))
    return name


def _transformer_path(folder: Path) -> Path:
    if folder.exists() and not folder.is_dir():
        raise ExportError(f"{folder} is no folder", hint="give the folder that save_pretrained wrote")
    if not folder.is_dir():
        siblings = [other.name for other in folder.parent.iterdir()] if folder.parent.is_dir() else []
        hint = did_you_mean(folder.name, siblings) or "download the model first; nothing is fetched from the network"
        raise ExportError(f"no such folder: {folder}", hint=hint)
    found = next((path for path in (folder, folder / SUBFOLDER) if (path / CONFIG).is_file()), None)
    if found is None:
        unet = "pipelines around a UNet are not supported" if (folder / "unet").is_dir() else None
        hint = unet or "give the folder that save_pretrained wrote"
        raise ExportError(f"{folder} is no diffusers folder: no {CONFIG}, no {SUBFOLDER}/{CONFIG}", hint=hint)
    return found
