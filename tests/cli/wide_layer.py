"""A model that is built in a second, whose graph and golden vectors are larger than most: over a megabyte each."""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTH = 640


def make() -> tuple[nn.Module, dict[str, Tensor]]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU()).eval(), {"input": torch.randn(4, 16, WIDTH)}
