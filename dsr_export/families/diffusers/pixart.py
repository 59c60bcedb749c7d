"""PixArt-Alpha and Sigma: inputs under diffusers' argument names, examples, and the call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from dsr_export.example_rows.drawn import Array, Draw
from dsr_export.families.diffusers.patched import TIMESTEPS, Patched
from dsr_export.families.diffusers.wrapper import float_input, uniform
from graphs.artifacts import TensorSpec


class PixArtDenoiser(Patched):
    """`PixArtTransformer2DModel`, arXiv 2310.00426; the mask of the prompt is 1 for its tokens and 0 for padding."""

    TEXT_TOKENS = 120
    EMBEDDERS = ("pos_embed", "adaln_single.emb", "caption_projection", "proj_out")

    @classmethod
    def fitting(cls, head: int, inner: int) -> dict[str, Any]:
        return {"cross_attention_dim": inner}

    def inputs(self) -> tuple[TensorSpec, ...]:
        config = self.transformer.config
        text, width = self.size.text_tokens, config.caption_channels or config.cross_attention_dim
        sizes = (float_input("resolution", 2), float_input("aspect_ratio", 1)) if self._sized else ()
        latent, prompt = (
            float_input("hidden_states", *self.latent(config.in_channels)),
            float_input("encoder_hidden_states", text, width),
        )
        return latent, prompt, float_input("timestep"), float_input("encoder_attention_mask", text), *sizes

    def draws(self) -> Mapping[str, Draw]:
        pixels = self.size.height * 8.0  # the autoencoder's factor
        return {
            "timestep": uniform(0, TIMESTEPS),
            "encoder_attention_mask": _prefix_mask,
            "resolution": uniform(pixels / 2, pixels),
            "aspect_ratio": uniform(0.5, 2),
        }

    def forward(
        self,
        latent: Tensor,
        prompt: Tensor,
        timestep: Tensor,
        mask: Tensor,
        resolution: Tensor | None = None,
        aspect_ratio: Tensor | None = None,
    ) -> Tensor:
        mask = mask.reshape(latent.shape[0], self.size.text_tokens)  # tells torch.export that both batches are one
        made = self.transformer(
            latent,
            encoder_hidden_states=prompt,
            timestep=timestep,
            added_cond_kwargs={"resolution": resolution, "aspect_ratio": aspect_ratio},
            encoder_attention_mask=mask,
            return_dict=False,
        )
        return made[0]  # type: ignore[no-any-return]

    @property
    def _sized(self) -> bool:
        return bool(self.transformer.use_additional_conditions)


def _prefix_mask(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """A prompt of random length: ones, then zeros for the padding."""
    return np.arange(shape[0]) < rng.integers(1, shape[0] + 1)
