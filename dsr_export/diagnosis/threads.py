"""Small models on one thread: threads that wait for each other cost them more than they gain."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

SMALL = 50_000_000  # parameters; on a machine with other work, a tiny model ran ten times faster on one thread


@contextmanager
def fitting_threads(module: nn.Module) -> Iterator[None]:
    """One thread while `module` is small; the setting is PyTorch's own and is put back."""
    before = torch.get_num_threads()
    if sum(weight.numel() for weight in module.parameters()) < SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
