"""Sana: a small causal language model reads an instruction and the prompt; its last tokens are the condition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dsr_export.families.text_encoders.reads import Reads
from dsr_export.pipelines.instruction import sana_instruction
from dsr_export.pipelines.parts import PipelineSizes, TextPart, VaePart
from dsr_export.pipelines.recipe import Array, Encoded, Recipe, lowered, text_width
from dsr_export.prompts import PromptTokenizer

GEMMA, TOKENIZER = "text_encoder", "tokenizer"
TEXT_TOKENS, SIDE, CHANNELS = 300, 32, 32


class Sana(Recipe):
    """`SanaPipeline`, arXiv 2410.10629. Negative prompts stand without the instruction.

    They are as long as the condition, and prompts longer by the instruction: one graph serves both, as what follows a
    token of a causal model does not change its states.
    """

    names = ("SanaPipeline",)
    roles = (GEMMA,)
    steps, guidance = 20, 4.5
    padding_side = "right"

    @classmethod
    def text_parts(cls, sizes: PipelineSizes) -> tuple[TextPart, ...]:
        reads = Reads(tokens=_with_instruction(sizes), masked=True)
        part = TextPart(role=GEMMA, tokenizer=TOKENIZER, reads=reads)
        text_width(sizes, [part], int(sizes.transformer.get("caption_channels", 2304)), "caption_channels")
        return (part,)

    @classmethod
    def vae_part(cls, sizes: PipelineSizes) -> VaePart:
        return sizes.vae(sizes.latent(SIDE), int(sizes.transformer.get("in_channels", CHANNELS)), shifted=False)

    @classmethod
    def settings(cls, sizes: PipelineSizes) -> dict[str, Any]:
        scale = sizes.transformer.get("timestep_scale", 1.0)
        kept = sizes.size("text_tokens", TEXT_TOKENS)
        return {"instruction": sana_instruction(), "text_tokens": kept, "timestep_scale": float(scale)}

    def text(self, prompt: str, role: str, *, negative: bool) -> str:
        return lowered(prompt) if negative else str(self.record.settings["instruction"]) + lowered(prompt)

    def length(self, role: str, *, negative: bool) -> int:
        return self.prompt_tokens if negative else self.record.text[role].tokens

    @property
    def prompt_tokens(self) -> int:
        return int(self.record.settings["text_tokens"])

    def conditions(self, encoded: Mapping[str, Encoded], *, negative: bool) -> dict[str, Array]:
        """Of a prompt the first token and the last ones, of a negative one all."""
        made, kept = encoded[GEMMA], self.prompt_tokens
        total = made.mask.shape[1]
        taken = np.arange(kept) if negative else np.array([0, *range(total - kept + 1, total)])
        return {"encoder_hidden_states": made.hidden[:, taken], "encoder_attention_mask": made.mask[:, taken]}

    def time(self, step: float) -> float:
        return step * float(self.record.settings["timestep_scale"])


def _with_instruction(sizes: PipelineSizes) -> int:
    """Tokens of the instruction and of the prompt: two stand in both counts."""
    tokenizer = PromptTokenizer.from_folder(sizes.folder.part(TOKENIZER))
    return tokenizer.count(sana_instruction()) + sizes.size("text_tokens", TEXT_TOKENS) - 2
