"""Adapters of classes that cut a latent into patches: inputs under diffusers' argument names, examples, and the call.

DiT, whose condition is a class, has the inputs of the other class-conditional denoisers: `x`, `t`, `y`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from dsr_export.errors import ExportError
from dsr_export.example_rows.drawn import Array, Draw
from dsr_export.families.diffusers.positions import sincos_table
from dsr_export.families.diffusers.wrapper import DiffusersDenoiser, float_input, uniform
from graphs.artifacts import TensorSpec

TIMESTEPS = 1000.0  # schedulers count them from 0 to 1000


def _prefix_mask(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """A prompt of random length: ones, then zeros for the padding."""
    return np.arange(shape[0]) < rng.integers(1, shape[0] + 1)


class _Patched(DiffusersDenoiser):
    """What the three classes that cut the latent into patches themselves share."""

    def latent(self, channels: int) -> tuple[int, int, int]:
        return channels, self.size.height, self.size.width

    def output_shape(self) -> tuple[int | str, ...]:
        return ("batch", *self.latent(self.transformer.out_channels))

    def prepare(self) -> None:
        embed, patch = self.transformer.pos_embed, self.transformer.config.patch_size
        rows, odd_rows = divmod(self.size.height, patch)
        columns, odd_columns = divmod(self.size.width, patch)
        if odd_rows or odd_columns:
            raise ExportError(f"patches of {patch} do not divide a {self.size.height}x{self.size.width} latent")
        largest = embed.pos_embed_max_size
        if largest and max(rows, columns) > largest:
            raise ExportError(
                f"a {self.size.height}x{self.size.width} latent has more than {largest} patches a side",
                hint=f"the position table ends at {largest * patch}x{largest * patch}",
            )
        if largest:  # cropped here: the whole table would stay in the graph
            table = embed.cropped_pos_embed(self.size.height, self.size.width).clone()
        else:
            table = sincos_table(self.dim, rows, columns, base=embed.base_size, scale=embed.interpolation_scale)
        embed.height, embed.width, embed.pos_embed, embed.pos_embed_max_size = rows, columns, table, None


class DiTDenoiser(_Patched):
    """`DiTTransformer2DModel`, arXiv 2212.09748; with a learned variance, `out` has it in its last channels."""

    def prepare(self) -> None:
        super().prepare()
        if self.size.height != self.size.width:
            raise ExportError("DiTTransformer2DModel takes square latents only", hint="give one size for both")

    def outer_modules(self) -> tuple[str, ...]:
        """Every block embeds the time for itself; the label tables may be of low precision."""
        names = [f"transformer_blocks.{i}.norm1.emb" for i in range(self.config.depth)]
        parts = [f"{name}.{part}" for name in names for part in ("time_proj", "timestep_embedder")]
        return tuple(f"transformer.{name}" for name in ("pos_embed", *parts, "proj_out_1", "proj_out_2"))

    def inputs(self) -> tuple[TensorSpec, ...]:
        labels = TensorSpec(name="y", dtype="int64", shape=("batch",))
        return float_input("x", *self.latent(self.transformer.config.in_channels)), float_input("t"), labels

    @property
    def num_classes(self) -> int:
        return int(self.transformer.config.num_embeds_ada_norm)

    def draws(self) -> Mapping[str, Draw]:
        return {"t": uniform(0, TIMESTEPS)}

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return self.transformer(x, timestep=t, class_labels=y, return_dict=False)[0]  # type: ignore[no-any-return]


class PixArtDenoiser(_Patched):
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


class SD3Denoiser(_Patched):
    """`SD3Transformer2DModel`, arXiv 2403.03206: Stable Diffusion 3 and 3.5."""

    TEXT_TOKENS = 333  # 77 of CLIP, 256 of T5
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
