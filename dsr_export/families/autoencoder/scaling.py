"""What an `AutoencoderRAE` does to pixels and latents, before and behind its networks.

Shapes: B batch, C channels, N = h * w patches.
"""

from __future__ import annotations

from torch import Tensor, nn

EPS = 1e-5


class PixelScaling(nn.Module):
    """An image [B, 3, H, W] in [0, 1] as the encoder takes it: minus `mean`, over `std` [1, 3, 1, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, image: Tensor) -> Tensor:
        return (image - self.mean) / self.std


class LatentScaling(nn.Module):
    """Tokens [B, N, C] -> the latent [B, C, h, w], or [B, N, C] without a `grid`: `(z - mean) / (std + 1e-5) * factor`.

    Here the deviation is stored, where RAE's own files hold the variance.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor, *, factor: float, grid: int | None) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std + EPS)
        self.factor, self.grid = factor, grid

    def forward(self, tokens: Tensor) -> Tensor:
        z = tokens
        if self.grid is not None:
            z = tokens.transpose(1, 2).unflatten(2, (self.grid, self.grid))  # type: ignore[no-untyped-call]
        z = (z - self.mean) / self.std
        return z if self.factor == 1 else z * self.factor


class LatentUnscaling(LatentScaling):
    """The way back: latent -> tokens [B, N, C]."""

    def forward(self, z: Tensor) -> Tensor:
        z = (z if self.factor == 1 else z / self.factor) * self.std + self.mean
        return z if self.grid is None else z.flatten(2).transpose(1, 2)


class UnscaledPixels(nn.Module):
    """`decoder`, with its image [B, 3, H, W] brought back to [0, 1]."""

    def __init__(self, decoder: nn.Module, scaling: PixelScaling) -> None:
        super().__init__()
        self.decoder, self.scaling = decoder, scaling

    def forward(self, z: Tensor) -> Tensor:
        image: Tensor = self.decoder(z)
        return image * self.scaling.std + self.scaling.mean
