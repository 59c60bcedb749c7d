"""PixArt-Alpha and Sigma: T5's states with a mask of the prompt's tokens; Alpha is told the picture's size."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dsr_export.families.text_encoders.reads import Reads
from dsr_export.pipelines.parts import PipelineSizes, TextPart, VaePart
from dsr_export.pipelines.recipe import Array, Encoded, Recipe, lowered, text_width

T5 = "text_encoder"
ALPHA_TOKENS, SIGMA_TOKENS, SIDE, CHANNELS = 120, 300, 128, 4


class PixArt(Recipe):
    """`PixArtAlphaPipeline` and `PixArtSigmaPipeline`, arXiv 2310.00426 and 2403.04692.

    Prompts are not cleaned of links and the like, as diffusers does where `beautifulsoup4` and `ftfy` are installed.
    """

    names = ("PixArtAlphaPipeline", "PixArtSigmaPipeline")
    roles = (T5,)
    steps, guidance = 20, 4.5
    scaled = started = True

    @classmethod
    def text_parts(cls, sizes: PipelineSizes) -> tuple[TextPart, ...]:
        usual = SIGMA_TOKENS if "Sigma" in sizes.folder.class_name else ALPHA_TOKENS
        reads = Reads(tokens=sizes.size("text_tokens", usual), masked=True)
        part = TextPart(role=T5, tokenizer="tokenizer", reads=reads)
        width = sizes.transformer.get("caption_channels") or sizes.transformer.get("cross_attention_dim")
        if type(width) is int:
            text_width(sizes, [part], width, "caption_channels")
        return (part,)

    @classmethod
    def vae_part(cls, sizes: PipelineSizes) -> VaePart:
        return sizes.vae(sizes.latent(SIDE), int(sizes.transformer.get("in_channels", CHANNELS)), shifted=False)

    def text(self, prompt: str, role: str, *, negative: bool) -> str:
        return lowered(prompt)

    def conditions(self, encoded: Mapping[str, Encoded], *, negative: bool) -> dict[str, Array]:
        made = encoded[T5]
        return {"encoder_hidden_states": made.hidden, "encoder_attention_mask": made.mask}

    def other(self, count: int, guidance: float) -> dict[str, Array]:
        if "resolution" not in self.shapes:
            return {}
        height, width = self.pixels
        return {
            "resolution": np.tile(np.array([height, width], np.float32), (count, 1)),
            "aspect_ratio": np.full((count, 1), height / width, np.float32),
        }
