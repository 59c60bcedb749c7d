"""The `rae-decoder` family: RAE's ViT decoder, latent -> image (RAE, arXiv 2510.11690; MAE, arXiv 2111.06377).

Module and parameter names follow the released checkpoints.
Shapes: B batch, N patches, D hidden size, C latent channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsr_export.families.network_parts.embeddings import sincos_2d


@dataclass(frozen=True, kw_only=True)
class RaeDecoderConfig:
    """Sizes under the names of the released `config.json`; `hidden_size` is the latent's channels.

    `latent_size` is the side of the latent, so the image has `latent_size * patch_size` pixels a side.
    """

    hidden_size: int = 768
    latent_size: int = 16
    patch_size: int = 16
    num_channels: int = 3
    decoder_hidden_size: int = 1152
    decoder_num_hidden_layers: int = 28
    decoder_num_attention_heads: int = 16
    decoder_intermediate_size: int = 4096
    layer_norm_eps: float = 1e-12  # zero in FP16, so the norms must stay in FP32
    qkv_bias: bool = True

    @property
    def image_size(self) -> int:
        return self.latent_size * self.patch_size


class SelfAttention(nn.Module):
    def __init__(self, config: RaeDecoderConfig) -> None:
        super().__init__()
        dim = config.decoder_hidden_size
        self.num_heads = config.decoder_num_attention_heads
        self.query = nn.Linear(dim, dim, bias=config.qkv_bias)
        self.key = nn.Linear(dim, dim, bias=config.qkv_bias)
        self.value = nn.Linear(dim, dim, bias=config.qkv_bias)

    def forward(self, x: Tensor) -> Tensor:  # [B, 1 + N, D]
        q, k, v = (
            project(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )  # [B, heads, 1 + N, head_dim]
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Dense(nn.Module):
    """A linear layer one level down, where the checkpoints have it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(x)  # type: ignore[no-any-return]


class Attention(nn.Module):
    def __init__(self, config: RaeDecoderConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(config)
        self.output = Dense(config.decoder_hidden_size, config.decoder_hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.attention(x))  # type: ignore[no-any-return]


class Layer(nn.Module):
    """Pre-norm transformer block with an exact GELU."""

    def __init__(self, config: RaeDecoderConfig) -> None:
        super().__init__()
        dim, hidden = config.decoder_hidden_size, config.decoder_intermediate_size
        self.layernorm_before = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.attention = Attention(config)
        self.layernorm_after = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.intermediate = Dense(dim, hidden)
        self.output = Dense(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.layernorm_before(x))
        x = x + self.output(F.gelu(self.intermediate(self.layernorm_after(x))))
        return x


class RaeDecoder(nn.Module):
    """`forward(z [B, C, h, w]) -> image [B, 3, H, W]`, as normalised for the encoder.

    `head`, where set, maps z [B, C, h, w] to tokens [B, N, C]: the denormalisation, which no checkpoint holds.
    """

    def __init__(self, config: RaeDecoderConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.decoder_hidden_size
        self.decoder_embed = nn.Linear(config.hidden_size, dim)
        self.decoder_pos_embed = nn.Parameter(position_table(config), requires_grad=False)
        self.trainable_cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.decoder_layers = nn.ModuleList(Layer(config) for _ in range(config.decoder_num_hidden_layers))
        self.decoder_norm = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.decoder_pred = nn.Linear(dim, config.patch_size**2 * config.num_channels)
        self.head: nn.Module | None = None

    def forward(self, z: Tensor) -> Tensor:
        tokens = z.flatten(2).transpose(1, 2) if self.head is None else self.head(z)  # [B, N, C]
        x = self.decoder_embed(tokens)
        x = torch.cat([self.trainable_cls_token.expand(x.shape[0], -1, -1), x], dim=1) + self.decoder_pos_embed
        for layer in self.decoder_layers:
            x = layer(x)
        return self._unpatchify(self.decoder_pred(self.decoder_norm(x))[:, 1:])

    def _unpatchify(self, x: Tensor) -> Tensor:  # [B, N, patch * patch * 3] -> [B, 3, H, W]
        patch, grid = self.config.patch_size, self.config.latent_size
        x = x.unflatten(2, (patch, patch, self.config.num_channels))  # type: ignore[no-untyped-call]
        x = x.unflatten(1, (grid, grid))  # type: ignore[no-untyped-call]
        return x.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def position_table(config: RaeDecoderConfig) -> Tensor:
    """The fixed sin-cos positions [1, 1 + N, D]; the CLS row is zero."""
    table = sincos_2d(config.decoder_hidden_size, config.latent_size)
    return torch.cat([torch.zeros(1, config.decoder_hidden_size), table])[None]
