"""Stable Diffusion 3 and 3.5: inputs under diffusers' argument names, examples, and the call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dsr_export.example_rows.drawn import Draw
from dsr_export.families.diffusers.patched import TIMESTEPS, Patched
from dsr_export.families.diffusers.wrapper import float_input, uniform
from graphs.artifacts import TensorSpec


class SD3Denoiser(Patched):
    """`SD3Transformer2DModel`, arXiv 2403.03206: Stable Diffusion 3 and 3.5."""

    TEXT_TOKENS = 333  # 77 of CLIP, 256 of T5
    KEEPS_TEXT = True
    EMBEDDERS = ("pos_embed", "time_text_embed", "context_embedder", "proj_out")

    @classmethod
    def fitting(cls, head: int, inner: int) -> dict[str, Any]:
        return {"caption_projection_dim": inner}

    def inputs(self) -> tuple[TensorSpec, ...]:
        config = self.transformer.config
        return (
            float_input("hidden_states", *self.latent(config.in_channels)),
            float_input("encoder_hidden_states", self.size.text_tokens, config.joint_attention_dim),
            float_input("pooled_projections", config.pooled_projection_dim),
            float_input("timestep"),
        )

    def draws(self) -> Mapping[str, Draw]:
        return {"timestep": uniform(0, TIMESTEPS)}

    def forward(self, latent: Tensor, prompt: Tensor, pooled: Tensor, timestep: Tensor) -> Tensor:
        return self.transformer(latent, prompt, pooled, timestep, return_dict=False)[0]  # type: ignore[no-any-return]
