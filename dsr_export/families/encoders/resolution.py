"""The one resolution that an encoder is built for: of a request, an image processor, or a configuration."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from dsr_export.errors import ExportError
from dsr_export.families.config_bounds import check_config
from dsr_export.families.encoders.model_inputs import ModelInputs

OPTIONS = ("image_size", "grid")


def inputs_for(config: Any, options: Mapping[str, Any], processed: int | None = None) -> ModelInputs:
    """What a model of `config` reads. `image_size` is in pixels, a side or `HEIGHTxWIDTH`; `grid`, of models that read
    flat patches, in patches.

    Raises ExportError where nothing says a size, and for sizes that patches do not divide.
    """
    patch, channels = _pair(config, "patch_size"), int(getattr(config, "num_channels", 3))
    if patch is None:
        raise ExportError("the model's configuration names no patch_size", hint="is it a vision transformer?")
    if not hasattr(config, "image_size") and hasattr(config, "num_patches"):
        return _flat(config, patch, channels, options)
    if "grid" in options:
        raise ExportError("the option grid is for models of flat patches", hint="give image_size, in pixels")
    asked = options.get("image_size", processed)
    own = _pair(config, "image_size")
    size = own if asked is None else _sides("image_size", asked)
    if size is None:
        raise ExportError("nothing says how large images are", hint="give --option image_size=PIXELS")
    check_config(
        {"image_size": max(size), "patch_size": min(patch), "hidden_size": int(getattr(config, "hidden_size", 1))},
        "the encoder",
    )
    if any(side < each or side % each for side, each in zip(size, patch, strict=True)):
        raise ExportError(f"image size {_said(size)} is not a multiple of the patch size {_said(patch)}")
    grid = (size[0] // patch[0], size[1] // patch[1])
    return ModelInputs(shape=(channels, *size), grid=grid, resampled=own is not None and size != own)


def _flat(config: Any, patch: tuple[int, int], channels: int, options: Mapping[str, Any]) -> ModelInputs:
    if "image_size" in options:
        raise ExportError("this model reads flat patches, not images", hint="give --option grid=ROWSxCOLUMNS")
    side = math.isqrt(int(config.num_patches))
    grid = _sides("grid", options["grid"]) if "grid" in options else (side, side)
    sizes = {"image_size": max(grid) * max(patch), "patch_size": min(patch), "hidden_size": int(config.hidden_size)}
    check_config(sizes, "the encoder")
    return ModelInputs(shape=(grid[0] * grid[1], channels * patch[0] * patch[1]), grid=grid, flat=True)


def _pair(config: Any, name: str) -> tuple[int, int] | None:
    """A size of the configuration, one number for both sides or two."""
    value = getattr(config, name, None)
    if type(value) is int:
        return value, value
    if isinstance(value, tuple | list) and len(value) == 2 and all(type(each) is int for each in value):
        return int(value[0]), int(value[1])
    return None


def _sides(name: str, value: Any) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d{0,5})(?:x([1-9]\d{0,5}))?", str(value))
    if found is None or isinstance(value, bool):
        raise ExportError(f"option {name}={value!r} is no size", hint=f"{name}=16, or {name}=16x12 (rows, columns)")
    return int(found[1]), int(found[2] or found[1])


def _said(size: tuple[int, int]) -> str:
    return str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"
