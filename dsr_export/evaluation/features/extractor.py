"""What an extractor of features is, and pictures as its tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Extracted:
    """Of n pictures: `features` [n, D] and, of a classifier, `logits` [n, K]; float32."""

    features: Array
    logits: Array | None = None


class Extractor(Protocol):
    """A network of features. `digest` identifies its weights, `width` is D."""

    name: str
    digest: str
    width: int

    def __call__(self, pictures: Array) -> Extracted:
        """Of pictures [n, H, W, C] uint8, C 1 or 3; a row does not depend on the others but for rounding."""
        ...


def as_rgb(pictures: Array) -> Array:
    """[n, H, W, 3] uint8: grey is spread."""
    return np.repeat(pictures, 3, axis=3) if pictures.shape[3] == 1 else pictures


def as_tensor(pictures: Array) -> Tensor:
    """Pictures [n, H, W, C] uint8 -> [n, C, H, W], still uint8."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)))
