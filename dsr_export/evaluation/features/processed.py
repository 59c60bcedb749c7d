"""Pictures as the image processor of a `transformers` folder would hand them to its model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dsr_export.errors import ExportError
from dsr_export.images.picture_file import BICUBIC
from graphs.foreign.small_files import read_json_object

Array = npt.NDArray[Any]
FILE = "preprocessor_config.json"
_SIDES = range(8, 2049)


@dataclass(frozen=True)
class Processing:
    """The whole picture, squeezed to `side` x `side` by PIL's bicubic filter, from [0, 1] minus `mean`, over `std`."""

    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, folder: Path, config: Any) -> Processing:
        """What the folder's `preprocessor_config.json` says. ExportError where it lacks it, or says nothing usable."""
        if not (folder / FILE).is_file():
            raise ExportError(f"{folder} holds no {FILE}", hint="download the folder again, with all its small files")
        settings = read_json_object(folder / FILE, hint="download the folder again")
        side = _side(settings, config)
        mean, std = (_three(folder, settings, key) for key in ("image_mean", "image_std"))
        if side not in _SIDES or not all(each > 0 for each in std):
            raise ExportError(f"{folder / FILE} asks for pictures that can't be made", hint="download it again")
        return cls(side, mean, std)

    def __call__(self, pictures: Array) -> Tensor:
        """Pictures [n, H, W, 1 or 3] uint8 -> [n, 3, side, side] float64."""
        from PIL import Image

        grey = pictures.shape[3] == 1
        rows = []
        for picture in pictures:
            opened = Image.fromarray(picture[..., 0] if grey else picture).convert("RGB")
            rows.append(np.asarray(opened.resize((self.side, self.side), BICUBIC), np.float64) / 255)
        scaled = (np.stack(rows) - np.array(self.mean)) / np.array(self.std)
        return torch.from_numpy(np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)))


def _side(settings: Mapping[str, Any], config: Any) -> int:
    """The crop's, the size's, or what the model was made for."""
    for key in ("crop_size", "size"):
        value = settings.get(key)
        if isinstance(value, Mapping):
            value = value.get("height", value.get("shortest_edge"))
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return int(getattr(config, "image_size", 224))


def _three(folder: Path, settings: Mapping[str, Any], key: str) -> tuple[float, ...]:
    value = settings.get(key)
    if not isinstance(value, list) or len(value) != 3 or not all(isinstance(each, (int, float)) for each in value):
        raise ExportError(f"{folder / FILE} has no three numbers '{key}'", hint="download it again")
    return tuple(float(each) for each in value)
