"""A diffusers transformer folder on disk: its config, its weight files, and the class it holds. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsr_export.errors import ExportError, did_you_mean
from dsr_export.families.config_bounds import check_config
from dsr_export.families.diffusers.general.classes import recipe_of
from dsr_export.families.diffusers.supported import SUPPORTED
from dsr_export.readable import readable
from graphs.foreign.small_files import read_json_object

CONFIG, INDEX, SUBFOLDER = "config.json", "model_index.json", "transformer"
STEM = "diffusion_pytorch_model"
SUFFIXES = (".safetensors", ".bin")
_AGAIN = "copy or download it again"
_SHARD = re.compile(r"-\d{5}-of-\d{5}(?=\.)")
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
        weights=weight_files(path) if own_weights else (),
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


def weight_files(path: Path) -> tuple[Path, ...]:
    """The plain weights, whole or sharded, safetensors before pickles; else the only variant that is there.

    A variant's name stands before the suffix: `diffusion_pytorch_model.fp16.safetensors`, and in its index before
    the suffix too, or (as newer diffusers writes it) behind `index`.
    """
    for suffix in SUFFIXES:
        plain = _named(path, f"{STEM}{suffix}", f"{STEM}{suffix}.index.json")
        if plain:
            return plain
    for suffix in SUFFIXES:
        variants = _variants(path, suffix)
        if len(variants) > 1:
            listed = ", ".join(variants)
            hint = "give the one meant with --checkpoint, or leave one in the folder"
            raise ExportError(f"{path} holds several variants of its weights: {listed}", hint=hint)
        if variants:
            indices = (f"{STEM}{suffix}.index.{variants[0]}.json", f"{STEM}.{variants[0]}{suffix}.index.json")
            return _named(path, f"{STEM}.{variants[0]}{suffix}", *indices)
    return ()


def _named(path: Path, whole: str, *indices: str) -> tuple[Path, ...]:
    if (path / whole).is_file():
        return (path / whole,)
    index = next((path / name for name in indices if (path / name).is_file()), None)
    return () if index is None else _shards(index)


def _variants(path: Path, suffix: str) -> list[str]:
    """`fp16` and the like, of whole files and of indices."""
    name, end = r"\.([\w-]+)", re.escape(suffix)
    forms = (f"{STEM}{name}{end}", rf"{STEM}{end}\.index{name}\.json", rf"{STEM}{name}{end}\.index\.json")
    files = [each.name for each in path.iterdir() if not _SHARD.search(each.name)]
    return sorted({found[1] for file in files for form in forms if (found := re.fullmatch(form, file))})


def _shards(index: Path) -> tuple[Path, ...]:
    """The files an index names, which must lie beside it."""
    listed = read_json_object(index, hint=_AGAIN).get("weight_map")
    names = sorted({str(name) for name in listed.values()}) if isinstance(listed, dict) else []
    if not names:
        raise ExportError(f"{index} lists no weight files", hint=_AGAIN)
    for name in names:
        if Path(name).name != name or not (index.parent / name).is_file():
            raise ExportError(
                f"{index} lists '{name[:80]}', which does not lie beside it", hint="download the missing file"
            )
    return tuple(index.parent / name for name in names)
