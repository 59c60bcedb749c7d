"""The configuration of a diffusers `AutoencoderRAE`, and the folder it lies in. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dsr_export.errors import ExportError, did_you_mean
from dsr_export.families.config_bounds import check_config
from dsr_export.families.diffusers.files import CONFIG, STEMS
from dsr_export.families.folder_weights import weight_files
from dsr_export.readable import readable
from graphs.foreign.small_files import read_json_object

Part = Literal["encoder", "decoder"]
PARTS: tuple[Part, ...] = ("encoder", "decoder")
OPTION = "part"
CLASS, SUBFOLDER = "AutoencoderRAE", "vae"
FAMILIES: Mapping[str, str] = {"dinov2": "dinov2-with-registers", "siglip2": "siglip", "mae": "mae"}
"""`encoder_type` -> the family of its encoder."""
IMAGE_SIZES: Mapping[str, int] = {"dinov2": 518, "siglip2": 256, "mae": 224}
"""For which image size each encoder's positions are stored; they are resampled to `encoder_input_size`."""
HEAD = 64  # channels of an attention head, in every encoder that the class builds
DEFAULTS: Mapping[str, Any] = {
    "encoder_type": "dinov2",
    "encoder_hidden_size": 768,
    "encoder_patch_size": 14,
    "encoder_num_hidden_layers": 12,
    "decoder_hidden_size": 512,
    "decoder_num_hidden_layers": 8,
    "decoder_num_attention_heads": 16,
    "decoder_intermediate_size": 2048,
    "patch_size": 16,
    "encoder_input_size": 224,
    "image_size": None,
    "num_channels": 3,
    "encoder_norm_mean": (0.485, 0.456, 0.406),
    "encoder_norm_std": (0.229, 0.224, 0.225),
    "latents_mean": None,
    "latents_std": None,
    "noise_tau": 0.0,
    "reshape_to_2d": True,
    "use_encoder_loss": False,
    "scaling_factor": 1.0,
}
"""The constructor's arguments, as diffusers has them."""
_SIZES = tuple(name for name, value in DEFAULTS.items() if type(value) is int)


@dataclass(frozen=True)
class AutoencoderFolder:
    """`path` holds `config.json` and `weights`, whole or sharded; `name` is what the user pointed at."""

    path: Path
    name: str
    values: Mapping[str, Any]
    weights: tuple[Path, ...]

    @property
    def grid(self) -> int:
        """Rows, and columns, of the latent."""
        return int(self.values["encoder_input_size"]) // int(self.values["encoder_patch_size"])


def autoencoder_path(folder: Path, options: Mapping[str, Any]) -> Path | None:
    """Where `folder` holds an `AutoencoderRAE`: itself, or, where a part is asked for, its `vae`. None: it holds none.

    Raises ExportError where a part is asked of something else.
    """
    for path in (folder, folder / SUBFOLDER) if OPTION in options else (folder,):
        if (path / CONFIG).is_file() and _class(path) == CLASS:
            return path
    if OPTION in options:
        raise ExportError(f"{folder} holds no {CLASS}, and its {OPTION} is asked for", hint=f"leave out {OPTION}")
    return None


def open_autoencoder(path: Path, *, own_weights: bool = True) -> AutoencoderFolder:
    """Reads and checks a folder. Raises ExportError for arguments that are not the class's, and sizes it refuses."""
    where = str(path / CONFIG)
    given = {key: value for key, value in _config(path).items() if not key.startswith("_")}
    check_config(given, where)
    for name in given:
        if name not in DEFAULTS:
            raise ExportError(f"{where}: {CLASS} has no argument '{name}'", hint=did_you_mean(name, DEFAULTS))
    values = {**DEFAULTS, **{name: value for name, value in given.items() if value is not None}}
    _check(where, values)
    return AutoencoderFolder(
        path, readable(path.resolve().name), values, weight_files(path, STEMS) if own_weights else ()
    )


def part_of(options: Mapping[str, Any]) -> Part:
    """The part that is asked for. Raises ExportError where none is, or an unknown one, and for other options."""
    other = [name for name in options if name != OPTION]
    if other:
        raise ExportError(f"{CLASS} has no option '{other[0]}'", hint=f"its option is {OPTION}")
    for part in PARTS:
        if options.get(OPTION) == part:
            return part
    asked = f"there is no part '{options[OPTION]}'" if OPTION in options else "an autoencoder is two models"
    raise ExportError(f"{CLASS}: {asked}", hint="give --option part=encoder, or --option part=decoder")


def _class(path: Path) -> Any:
    return _config(path).get("_class_name")


def _config(path: Path) -> Mapping[str, Any]:
    return read_json_object(path / CONFIG, hint="copy or download it again")


def _check(where: str, values: Mapping[str, Any]) -> None:
    def refuse(message: str) -> None:
        raise ExportError(f"{where}: {message}", hint="compare it with the model's own")

    for name in _SIZES:
        if type(values[name]) is not int or values[name] < 1:
            refuse(f"{name} is {values[name]!r}, not a whole number from 1")
    if values["encoder_type"] not in FAMILIES:
        refuse(f"encoder_type '{str(values['encoder_type'])[:40]}' is none of {', '.join(FAMILIES)}")
    if values["encoder_hidden_size"] % HEAD:
        refuse(f"encoder_hidden_size {values['encoder_hidden_size']} is no multiple of {HEAD}, the width of a head")
    if values["encoder_input_size"] % values["encoder_patch_size"]:
        refuse("encoder_patch_size does not divide encoder_input_size")
    side = values["encoder_input_size"] // values["encoder_patch_size"] * values["patch_size"]
    if values["image_size"] not in (None, side):
        refuse(f"image_size {values['image_size']!r} is not {side}, which grid and patch_size make")
    factor = values["scaling_factor"]
    if type(factor) not in (int, float) or not math.isfinite(factor) or factor == 0:
        refuse(f"scaling_factor is {factor!r}")
