"""Outlier tokens and channels in a model with random weights, which has none of its own: a documented edit.

tokens     the four corner patches, as `digits-outliers` has them (`plant_outliers`)
channels   CHANNELS of each norm's output and of each MLP's hidden values become GAIN times larger, and the weights
           that read them GAIN times smaller: the same function, harder to quantise
massive    in one block, a few hidden channels that answer to the planted tokens alone, as in trained models
           (Sun et al., arXiv 2402.17762): outlier tokens at the input of the MLP's second GEMM
"""

from __future__ import annotations

import math

import torch

from dsr_export.families.network_parts.layers import Block
from dsr_export.families.rae_dit.digits import plant_outliers
from dsr_export.families.rae_dit.network import RaeDit

GAIN = 50.0
CHANNELS = (7, 101, 211, 337)
MASSIVE_BLOCK, MASSIVE = 2, (19, 503)
ALIGNMENT = 3.0  # an ordinary token's projection on the planted direction is about 1, a planted one's sqrt(D)


@torch.no_grad()
def plant(module: RaeDit) -> None:
    """All three, in place."""
    plant_outliers(module)
    plant_massive(module)
    plant_channels(module)


@torch.no_grad()
def plant_channels(module: RaeDit) -> None:
    """Outlier channels; what the model computes stays the same."""
    for block in module.blocks:
        dim, hidden = block.norm1.weight.numel(), block.mlp.w3.in_features
        _grow(block, "norm1", shift=0, reader=block.attn.qkv, channels=[c % dim for c in CHANNELS])
        _grow(block, "norm2", shift=3 * dim, reader=block.mlp.w12, channels=[c % dim for c in CHANNELS])
        values = [hidden + c % hidden for c in CHANNELS]  # the second half of w12 is not gated
        block.mlp.w12.weight[values] *= GAIN
        block.mlp.w12.bias[values] *= GAIN
        block.mlp.w3.weight[:, [v - hidden for v in values]] /= GAIN


@torch.no_grad()
def plant_massive(module: RaeDit) -> None:
    """Hidden channels of one block that only the planted direction switches on."""
    dim = module.config.hidden_size
    direction = torch.tensor([1.0, -1.0]).repeat(dim // 2) / math.sqrt(dim)
    mlp = module.blocks[MASSIVE_BLOCK % len(module.blocks)].mlp
    for channel in MASSIVE:
        row = channel % mlp.w3.in_features
        for each in (row, mlp.w3.in_features + row):
            mlp.w12.weight[each] += ALIGNMENT * direction


def _grow(block: Block, norm: str, *, shift: int, reader: torch.nn.Linear, channels: list[int]) -> None:
    """`norm(x) * (1 + scale) + shift` grows through the norm's weight and the rows of AdaLN that make the shift."""
    getattr(block, norm).weight[channels] *= GAIN
    made = block.adaLN_modulation[1]
    rows = [shift + c for c in channels]
    made.weight[rows] *= GAIN
    made.bias[rows] *= GAIN
    reader.weight[:, channels] /= GAIN
