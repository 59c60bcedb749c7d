"""LPIPS (R. Zhang et al., The unreasonable effectiveness of deep features, 2018), on AlexNet, from local files.

torchmetrics has it too, but only beside torchvision, which it would let download the trunk. Its own weights of the
distance, which its wheel ships, are read from there.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsr_export.checkpoints.safe_reading import read_file
from dsr_export.errors import ExportError
from dsr_export.evaluation.features.extractor import as_rgb, as_tensor
from dsr_export.families.digests import file_sha256

Array = npt.NDArray[Any]
SMALLEST = 31  # pixels; of smaller ones nothing is left behind the second pooling
_LAYERS = {
    0: (3, 64, 11, 4, 2),
    3: (64, 192, 5, 1, 2),
    6: (192, 384, 3, 1, 1),
    8: (384, 256, 3, 1, 1),
    10: (256, 256, 3, 1, 1),
}
"""The convolutions of torchvision's AlexNet by their places: channels in and out, size, stride, padding."""
_POOLED = (3, 6)  # the layers behind a pooling
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_FILE = "alexnet-owt-7be5be79.pth of torchvision's releases"


class Lpips:
    """The distance of pictures, 0 for equal ones."""

    def __init__(self, path: Path) -> None:
        """`path` holds AlexNet's weights under torchvision's names. Raises ExportError where it does not."""
        self.digest = file_sha256(path)
        state = _tensors(path)
        self._trunk = {place: _convolution(path, state, place) for place in _LAYERS}
        self._heads = _heads()

    @torch.inference_mode()
    def __call__(self, one: Array, other: Array) -> Array:
        """Of two times n pictures [n, H, W, 1 or 3] uint8: [n] float64. ExportError for ones that are too small.

        In float64: of pictures that are nearly equal it is the square of a small difference of features, and float32
        leaves five digits of it. One pair at a time, whose layers fit in memory.
        """
        if min(one.shape[1:3]) < SMALLEST:
            size = "x".join(map(str, one.shape[1:3]))
            raise ExportError(
                f"LPIPS is not defined for pictures of {size}", hint=f"they need {SMALLEST} pixels a side"
            )
        return np.array([self._of_pair(one[i : i + 1], other[i : i + 1]) for i in range(len(one))])

    def _of_pair(self, one: Array, other: Array) -> float:
        layers = zip(self._layers(one), self._layers(other), self._heads, strict=True)
        return sum(float(head((_unit(a) - _unit(b)).square()).mean()) for a, b, head in layers)

    def _layers(self, pictures: Array) -> list[Tensor]:
        x = as_tensor(as_rgb(pictures)).double() / 127.5 - 1
        shift, scale = (torch.tensor(each, dtype=x.dtype).view(3, 1, 1) for each in (_SHIFT, _SCALE))
        x = (x - shift) / scale
        found = []
        for place, layer in self._trunk.items():
            x = F.relu(layer(F.max_pool2d(x, 3, 2) if place in _POOLED else x))
            found.append(x)
        return found


def _unit(x: Tensor) -> Tensor:
    return x / (x.square().sum(dim=1, keepdim=True) + 1e-8).sqrt()


def _tensors(path: Path) -> dict[str, Tensor]:
    content, _ = read_file(path)
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ExportError(f"{path} holds no weights by name", hint=f"take {_FILE}")
    return content


def _convolution(path: Path, state: dict[str, Tensor], place: int) -> nn.Conv2d:
    channels, width, size, stride, padding = _LAYERS[place]
    made = nn.Conv2d(channels, width, size, stride, padding, dtype=torch.float64)
    prefix = f"features.{place}."
    try:
        weights = {name: state[f"{prefix}{name}"] for name in ("weight", "bias")}
        for name, value in weights.items():
            if not value.is_floating_point():  # torch would cast it, and whole numbers are zero mostly
                kind = str(value.dtype).removeprefix("torch.")
                raise ExportError(f"{path} holds '{prefix}{name}' in {kind}, and no floats", hint=f"take {_FILE}")
        made.load_state_dict(weights)
    except (KeyError, RuntimeError) as error:
        raise ExportError(f"{path} does not hold AlexNet's '{prefix}weight'", hint=f"take {_FILE}") from error
    return made


def _heads() -> list[nn.Conv2d]:
    """The released weights of the layers' distances."""
    shipped = resources.files("torchmetrics").joinpath("functional", "image", "lpips_models", "alex.pth")
    with resources.as_file(shipped) as path:
        state = _tensors(path)
    made = []
    for i, (_, width, *_) in enumerate(_LAYERS.values()):
        head = nn.Conv2d(width, 1, 1, bias=False, dtype=torch.float64)
        head.load_state_dict({"weight": state[f"lin{i}.model.1.weight"]})
        made.append(head)
    return made
