"""What a text encoder attends to, as numbers to add to its scores: constants as far as the prompt does not matter.

Shapes: B prompts, L tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

FAR = -30_000.0
"""Far below any score, and within the range of half precision: its exponential is 0 in each type."""


class AttentionBias(nn.Module):
    """`forward(mask [B, L] or None)` -> what the encoder's class takes as `attention_mask`, already with four axes.

    T5 sees every token, CLIP and Gemma those before it, Gemma's local layers the nearest of these; padding is masked
    where the mask says so.
    """

    everywhere: Tensor
    before: Tensor
    near: Tensor

    def __init__(self, class_name: str, tokens: int, window: int | None) -> None:
        super().__init__()
        self.class_name = class_name
        rows = torch.arange(tokens)
        behind = rows[:, None] - rows  # how far a key lies behind its query
        window = tokens if window is None else window
        self.register_buffer("everywhere", torch.zeros(1, 1, 1, tokens), persistent=False)
        self.register_buffer("before", _far(behind >= 0), persistent=False)
        self.register_buffer("near", _far((behind >= 0) & (behind < window)), persistent=False)

    def forward(self, mask: Tensor | None) -> Any:
        padding = None if mask is None else (1 - mask.float())[:, None, None] * FAR
        if self.class_name.startswith("T5"):
            return self.everywhere if padding is None else padding
        before = _both(self.before, padding)
        if self.class_name.startswith("CLIP"):
            return before
        return {"full_attention": before, "sliding_attention": _both(self.near, padding)}


def _far(seen: Tensor) -> Tensor:
    return torch.where(seen, 0.0, FAR)[None, None]


def _both(bias: Tensor, padding: Tensor | None) -> Tensor:
    return bias if padding is None else torch.minimum(bias, padding)
