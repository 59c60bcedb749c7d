"""What identifies the numbers in a module."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import torch
from torch import Tensor, nn


def tensors_digest(module: nn.Module, *, without: Collection[Tensor] = ()) -> str:
    """sha256 over names, types, shapes and bytes of a module's parameters and buffers, but for those in `without`."""
    digest, left_out = hashlib.sha256(), {id(each) for each in without}
    for name, value in sorted({**dict(module.named_parameters()), **dict(module.named_buffers())}.items()):
        if id(value) in left_out:
            continue
        digest.update(f"{name}\0{value.dtype}\0{list(value.shape)}\0".encode())
        digest.update(value.detach().contiguous().reshape(-1).view(torch.uint8).cpu().numpy().data)
    return digest.hexdigest()
