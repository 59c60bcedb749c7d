"""A tiny random ViT in which chosen neurons, and no others, turn marked patches into outlier tokens."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

GRID, PATCH, DIM, HIDDEN, DEPTH = 4, 2, 16, 24, 4
PLANTED = {1: (5,), 2: (3, 11)}
MARK = 40.0
"""What a marked patch holds in its first channel; ordinary patches hold standard normal noise."""


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(DIM, HIDDEN), nn.Linear(HIDDEN, DIM)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm; attention is an even mix of all tokens, which spreads no outlier far."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(DIM, elementwise_affine=False), Mlp()

    def forward(self, x: Tensor) -> Tensor:
        x = x + 0.01 * x.mean(dim=1, keepdim=True)
        return x + self.mlp(self.norm(x))


class PlantedVit(nn.Module):
    """`forward(image [B, 3, 8, 8])`: CLS and 16 patches through four blocks."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, DIM, PATCH, PATCH)
        self.cls = nn.Parameter(torch.zeros(1, 1, DIM))
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
        generator = torch.Generator().manual_seed(seed)
        for weight in self.parameters():
            weight.data.normal_(0, 0.1, generator=generator)
        self.patch.weight.data[0] = 0.0
        self.patch.weight.data[:, 0] = 0.0
        self.patch.weight.data[0, 0] = 1 / PATCH**2  # channel 0 of a token is the mean of its patch's red, and alone
        for layer, neurons in PLANTED.items():
            for neuron in neurons:
                _plant(self.blocks[layer].mlp, neuron)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patch(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x)
        return x


def _plant(mlp: Mlp, neuron: int) -> None:
    """Fires where channel 0 dominates its token (3.9 standard deviations; at most 2.9 without), and then hugely."""
    mlp.fc1.weight.data[neuron] = 0.0
    mlp.fc1.weight.data[neuron, 0], mlp.fc1.bias.data[neuron] = 20.0, -20.0 * 3.4
    mlp.fc2.weight.data[:, neuron] = 0.0
    mlp.fc2.weight.data[0, neuron] = 50.0


def marked_images(count: int, *, seed: int = 0) -> npt.NDArray[np.float32]:
    """Images [count, 3, 8, 8]; image i has a marked patch at position `mark_of(i)`, but every fourth has none."""
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((count, 3, GRID * PATCH, GRID * PATCH)).astype(np.float32)
    for i, image in enumerate(images):
        place = mark_of(i)
        if place is not None:
            row, column = divmod(place, GRID)
            image[0, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH] = MARK
    return images


def mark_of(image: int) -> int | None:
    return None if image % 4 == 3 else (5 * image + 2) % GRID**2
