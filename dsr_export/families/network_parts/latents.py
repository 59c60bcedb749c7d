"""Latent statistics: the normalisation between an encoder's tokens and a denoiser's latent (RAE, arXiv 2510.11690)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from dsr_export.checkpoints import Wanted, read_state_dict, require_float
from dsr_export.errors import ExportError

EPS = 1e-5


class LatentNormalisation(nn.Module):
    """Tokens [B, h * w, C] -> latent z [B, C, h, w]: `(z - mean) / sqrt(var + 1e-5)`."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:  # [C, h, w] each
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, tokens: Tensor) -> Tensor:
        z: Tensor = tokens.transpose(1, 2).unflatten(2, self.mean.shape[1:])  # type: ignore[no-untyped-call]
        return (z - self.mean) / self.std


class LatentDenormalisation(LatentNormalisation):
    """Latent z [B, C, h, w] -> tokens [B, h * w, C], the inverse."""

    def forward(self, z: Tensor) -> Tensor:
        return (z * self.std + self.mean).flatten(2).transpose(1, 2)


def read_statistics(path: Path, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [C, h, w] from a file's tensors `mean` and `var`, which may broadcast to that.

    Raises ExportError for an unreadable file, one without `mean` or `var`, wrong shapes, and negative variances.
    """
    state = read_state_dict(path, Wanted(("mean", "var")))
    absent = [name for name in ("mean", "var") if name not in state]
    if absent:
        raise ExportError(f"{path} holds no tensor {absent[0]!r}", hint="latent statistics are 'mean' and 'var'")
    mean, var = (_expanded(path, name, state[name], shape) for name in ("mean", "var"))
    if (var < 0).any():
        raise ExportError(f"{path}: 'var' holds negative values", hint="it is the variance, not its logarithm")
    return mean, torch.sqrt(var + EPS)


def _expanded(path: Path, name: str, values: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """As [C, h, w]; a leading batch axis of 1 is dropped, and a plain [C] is refused as it would fall on the width."""
    values = values[0] if values.ndim == 4 and values.shape[0] == 1 else values
    fits = values.ndim == 3 and all(have in (1, want) for have, want in zip(values.shape, shape, strict=True))
    if not fits:
        raise ExportError(
            f"{path}: '{name}' has shape {list(values.shape)}, which does not fit latents {list(shape)}",
            hint="the statistics were made for another encoder",
        )
    return require_float(path, name, values).expand(shape).contiguous()
