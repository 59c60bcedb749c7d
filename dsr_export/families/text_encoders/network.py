"""A text encoder of transformers as a graph takes it: ids in, hidden states and a pooled vector out.

Shapes: B prompts, L tokens, D channels.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from dsr_export.families.text_encoders.masks import AttentionBias
from dsr_export.families.text_encoders.reads import Reads

DECODERS = ("Gemma2Model",)
"""Causal models, which would keep a cache for the next token."""


class TextEncoder(nn.Module):
    """`forward(ids [B, L] int64, mask [B, L] int64)` -> `embeds [B, L, D]`, `pooled [B, D]`: those that `reads` names.

    The mask is 1 for tokens, 0 for padding, and only there where `reads` says so. With `bias`, what is attended to is
    made here; without it, by transformers, whose older releases take masks of two axes only.
    """

    def __init__(self, model: nn.Module, reads: Reads, bias: AttentionBias | None) -> None:
        super().__init__()
        self.model: Any = model
        self.reads, self.bias = reads, bias
        self.plain = {"use_cache": False} if type(model).__name__ in DECODERS else {}

    @property
    def outputs(self) -> tuple[str, ...]:
        """By name, in order."""
        hidden = ("embeds",) if self.reads.hidden is not None else ()
        return (*hidden, *(("pooled",) if self.reads.pooled else ()))

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Any:
        before_last = self.reads.hidden == "penultimate"
        seen = mask if self.bias is None else self.bias(mask)
        made = self.model(
            input_ids=ids, attention_mask=seen, output_hidden_states=before_last, return_dict=True, **self.plain
        )
        values = []
        if self.reads.hidden is not None:
            values.append(made.hidden_states[-2] if before_last else made.last_hidden_state)
        if self.reads.pooled:
            values.append(made.text_embeds if hasattr(made, "text_embeds") else made.pooler_output)
        return values[0] if len(values) == 1 else tuple(values)
