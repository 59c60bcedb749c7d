"""How much attention each token receives: the mean column of softmax(q k^T).

Shapes: B images, h heads, n tokens, d head dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

Array = npt.NDArray[Any]
Seen = Callable[[Array], None]


class AttentionProbe(TorchFunctionMode):
    """While active, gives `seen` what tokens received, [B, n], of every call of scaled dot-product attention.

    Queries and keys are taken as the model made them, hence after its norms and rotations, whatever the model.
    """

    def __init__(self, seen: Seen) -> None:
        super().__init__()
        self._seen = seen

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func is F.scaled_dot_product_attention:
            named = dict(zip(("query", "key", "value", "attn_mask"), args, strict=False)) | given
            self._seen(received(named["query"], named["key"], named.get("attn_mask"), named.get("scale")))
        return func(*args, **given)


def received(query: Tensor, key: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Array:
    """Query and key [B, h, n, d] -> the attention each key gets, mean over heads and queries, times their number.

    [B, n] float64: 1 is an even share. One image at a time, so that no more than [h, n, n] is held.
    """
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    rows = []
    for i in range(len(query)):
        logits = (query[i].float() @ key[i].float().transpose(-1, -2)) * factor  # [h, n, n]
        if mask is not None:
            there = mask[min(i, len(mask) - 1)] if mask.ndim == 4 else mask
            logits = logits.masked_fill(~there, -math.inf) if there.dtype == torch.bool else logits + there
        rows.append(logits.softmax(dim=-1).mean(dim=(0, 1)).double().numpy() * key.shape[-2])
    return np.stack(rows)


class AttentionStats:
    """Mean attention received in each layer: `means[l]` [rows of that layer], once something was added.

    What is not finite, in a model that overflows, counts as none."""

    def __init__(self, layers: int) -> None:
        self._sums: list[Array | None] = [None] * layers
        self._images = [0] * layers

    def add(self, layer: int, shares: Array) -> None:
        """Shares [B, rows] of one call. A second call within a layer (cross-attention) must not be added."""
        before = self._sums[layer]
        total = shares.sum(axis=0)
        self._sums[layer] = total if before is None else before + total
        self._images[layer] += len(shares)

    @property
    def means(self) -> list[Array | None]:
        return [None if s is None else np.nan_to_num(s / n) for s, n in zip(self._sums, self._images, strict=True)]
