"""FLUX.1: one vector of CLIP, T5's states, latents packed 2x2 into tokens, guidance as an input of the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dsr_export.families.text_encoders.reads import Reads
from dsr_export.pipelines.parts import PipelineSizes, TextPart, VaePart
from dsr_export.pipelines.recipe import Array, Encoded, Recipe, dynamic_shift, text_width

CLIP, T5 = "text_encoder", "text_encoder_2"
TEXT_TOKENS, SIDE, CHANNELS, WIDTH = 512, 128, 64, 4096
PACK = 2
THOUSAND = 1000


class Flux(Recipe):
    """`FluxPipeline`: a negative prompt only counts with a scale of its own, beside the guidance that is an input."""

    names = ("FluxPipeline",)
    roles = (CLIP, T5)
    steps, guidance = 28, 3.5
    true_guidance = True

    @classmethod
    def text_parts(cls, sizes: PipelineSizes) -> tuple[TextPart, ...]:
        short = Reads(tokens=sizes.longest("tokenizer"), hidden=None, pooled=True)
        t5 = TextPart(role=T5, tokenizer="tokenizer_2", reads=Reads(tokens=sizes.size("text_tokens", TEXT_TOKENS)))
        text_width(sizes, [t5], int(sizes.transformer.get("joint_attention_dim", WIDTH)), "joint_attention_dim")
        return TextPart(role=CLIP, tokenizer="tokenizer", reads=short), t5

    @classmethod
    def vae_part(cls, sizes: PipelineSizes) -> VaePart:
        latent = sizes.size("latent_height", SIDE), sizes.size("latent_width", SIDE)
        return sizes.vae(latent, int(sizes.transformer.get("in_channels", CHANNELS)) // PACK**2, shifted=True)

    @property
    def prompt_tokens(self) -> int:
        return self.record.text[T5].tokens

    def conditions(self, encoded: Mapping[str, Encoded], *, negative: bool) -> dict[str, Array]:
        return {"encoder_hidden_states": encoded[T5].hidden, "pooled_projections": encoded[CLIP].vector}

    def prompt_mask(self, encoded: Mapping[str, Encoded]) -> Array:
        return encoded[T5].mask

    def other(self, count: int, guidance: float) -> dict[str, Array]:
        return {"guidance": np.full(count, guidance, np.float32)} if "guidance" in self.shapes else {}

    @property
    def latent(self) -> tuple[int, ...]:
        channels = self.shapes["hidden_states"][1] // PACK**2
        return channels, int(self.config["height"]), int(self.config["width"])

    def packed(self, latents: Array) -> Array:
        """[n, C, h, w] -> [n, h * w / 4, 4 * C]."""
        count, channels, height, width = latents.shape
        cells = latents.reshape(count, channels, height // PACK, PACK, width // PACK, PACK)
        return cells.transpose(0, 2, 4, 1, 3, 5).reshape(count, -1, channels * PACK**2)

    def unpacked(self, latents: Array) -> Array:
        channels, height, width = self.latent
        cells = latents.reshape(len(latents), height // PACK, width // PACK, channels, PACK, PACK)
        return cells.transpose(0, 3, 1, 4, 2, 5).reshape(len(latents), channels, height, width)

    def time(self, step: float) -> float:
        return step / THOUSAND

    def start(self, scheduler: Mapping[str, Any], steps: int) -> dict[str, Any]:
        mu = dynamic_shift(scheduler, self.shapes["hidden_states"][0], most=1.15)
        if scheduler.get("use_flow_sigmas"):
            return {"mu": mu}
        return {"mu": mu, "sigmas": np.linspace(1.0, 1 / steps, steps)}
