"""The packaged reader of digits: a small network whose features and classes judge the pictures of `digits`.

Made by `python -m dsr_export.training.digit_reader`; its file also holds the moments of the real digits' features.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsr_export.errors import ExportError
from dsr_export.evaluation.features.extractor import Extracted, as_tensor
from dsr_export.evaluation.moments import Moments
from dsr_export.families.packaged import packaged_asset
from graphs.digests import bytes_digest

Array = npt.NDArray[Any]
FILE, REAL = "reader.safetensors", "real."
SIDE, WIDTH, CLASSES = 16, 64, 10


class DigitReader(nn.Module):
    """Grey pictures [n, 1, 16, 16] in [-1, 1] -> features [n, 64] and logits [n, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 32, 3, padding=1)
        self.features = nn.Linear(32 * 4 * 4, WIDTH)
        self.classes = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.max_pool2d(F.gelu(self.first(x)), 2)
        x = F.max_pool2d(F.gelu(self.second(x)), 2)
        features = torch.tanh(self.features(x.flatten(1)))  # bounded, and no feature is zero for every picture
        return features, self.classes(features)


class PackagedReader:
    """`DigitReader` with its packaged weights, as an extractor."""

    name, width = "digit-reader", WIDTH

    def __init__(self) -> None:
        data = packaged_asset(FILE).read_bytes()
        self.digest = bytes_digest(data)
        arrays = safetensors.torch.load(data)
        self._real = {name: value.numpy() for name, value in arrays.items() if name.startswith(REAL)}
        self._network = DigitReader().eval()
        self._network.load_state_dict({name: value for name, value in arrays.items() if not name.startswith(REAL)})

    @property
    def real(self) -> Moments:
        """Of the features of all 1,797 real digits that scikit-learn ships."""
        return Moments.from_arrays(self._real, REAL)

    @torch.inference_mode()
    def __call__(self, pictures: Array) -> Extracted:
        """Of pictures [n, 16, 16, 1] uint8, or RGB that is grey as files are read. ExportError for others."""
        if pictures.shape[3] == 3 and (pictures == pictures[..., :1]).all():
            pictures = pictures[..., :1]
        if pictures.shape[1:] != (SIDE, SIDE, 1):
            size = "x".join(map(str, pictures.shape[1:]))
            raise ExportError(
                f"the packaged reader reads grey pictures of 16x16, and these are {size}",
                hint="give a network of your own with --network fid=PATH",
            )
        features, logits = self._network(as_tensor(pictures).float() / 127.5 - 1)
        return Extracted(np.asarray(features), np.asarray(logits))
