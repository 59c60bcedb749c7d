"""The adapter of `FluxTransformer2DModel`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from dsr_export.errors import ExportError
from dsr_export.example_rows.drawn import Draw
from dsr_export.families.diffusers.positions import RotaryTable, flux_ids, rotary_tables, with_identity_rows
from dsr_export.families.diffusers.wrapper import DiffusersDenoiser, float_input, uniform
from graphs.artifacts import TensorSpec


class FluxDenoiser(DiffusersDenoiser):
    """`FluxTransformer2DModel`: latents packed 2x2 into tokens, [batch, tokens, 4 * channels]; `timestep` in [0, 1].

    Ids of image and text tokens are constants. Layers count the double-stream blocks, then the single-stream ones.
    """

    TEXT_TOKENS = 512
    KEEPS_TEXT = True
    EMBEDDERS = ("x_embedder", "time_text_embed", "context_embedder", "proj_out")
    ids: Tensor

    @classmethod
    def fitting(cls, head: int, inner: int) -> dict[str, Any]:
        text = max(4, head // 32 * 4)  # 16 of 128, as released; each part must be even
        return {"axes_dims_rope": (text, (head - text) // 2, (head - text) // 2)}

    def prepare(self) -> None:
        if self.size.height % 2 or self.size.width % 2:
            raise ExportError(f"a {self.size.height}x{self.size.width} latent cannot be packed 2x2")
        text = self.size.text_tokens
        ids = flux_ids(self.size.height // 2, self.size.width // 2, text)
        table = RotaryTable(*rotary_tables(ids, self.transformer.config.axes_dims_rope))
        self.transformer.pos_embed = table
        self.with_registers = with_identity_rows(table, text, self.register_count)
        self.register_buffer("ids", ids, persistent=False)

    @classmethod
    def blocks_of(cls, transformer: Any) -> list[nn.Module]:
        return [*transformer.transformer_blocks, *transformer.single_transformer_blocks]

    @property
    def grid(self) -> tuple[int, int, int]:
        return 1, self.size.height // 2, self.size.width // 2

    @property
    def text_rows(self) -> tuple[int, int]:
        return 0, self.size.text_tokens

    @property
    def register_rows(self) -> Mapping[int, int]:
        """Single-stream blocks join both streams, the prompt's first."""
        text, tokens = self.size.text_tokens, self.size.height * self.size.width // 4
        return {text + self.register_count + tokens: text}

    def enter(self, layer: int, arguments: dict[str, Any]) -> None:
        arguments["image_rotary_emb"] = (self.with_registers.cos, self.with_registers.sin)

    def inputs(self) -> tuple[TensorSpec, ...]:
        config, tokens = self.transformer.config, self.size.height * self.size.width // 4
        guidance = (float_input("guidance"),) if config.guidance_embeds else ()
        return (
            float_input("hidden_states", tokens, config.in_channels),
            float_input("encoder_hidden_states", self.size.text_tokens, config.joint_attention_dim),
            float_input("pooled_projections", config.pooled_projection_dim),
            float_input("timestep"),
            *guidance,
        )

    def output_shape(self) -> tuple[int | str, ...]:
        tokens, patch = self.size.height * self.size.width // 4, self.transformer.config.patch_size
        return "batch", tokens, patch**2 * self.transformer.out_channels

    def draws(self) -> Mapping[str, Draw]:
        return {"timestep": uniform(0.02, 1), "guidance": uniform(1, 5)}

    def constants(self) -> dict[str, Any]:
        text = self.size.text_tokens
        return {"img_ids": self.ids[text:], "txt_ids": self.ids[:text]}

    def forward(
        self, tokens: Tensor, prompt: Tensor, pooled: Tensor, timestep: Tensor, guidance: Tensor | None = None
    ) -> Tensor:
        made = self.transformer(
            tokens,
            encoder_hidden_states=prompt,
            pooled_projections=pooled,
            timestep=timestep,
            **self.constants(),
            guidance=guidance,
            return_dict=False,
        )
        return made[0]  # type: ignore[no-any-return]
