"""How a block uses an argument of which its values do not say what it is: found by calling the block."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from dsr_export.families.diffusers.general.inserting.calls import Called

ROUNDING = 1e-4


def leaves_registers_alone(called: Called, index: int, own: Callable[..., Any]) -> bool:
    """Whether 0 in leaf `index` means nothing is done: it holds angles, or what is added to the tokens.

    Angles are what whole turns do not change. What is added may as well be added to the tokens before.
    """
    leaf = called.leaves[index]
    if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
        return False
    generator = torch.Generator().manual_seed(0)
    plain = _made(called, list(called.leaves), own)
    other = _with(called, index, leaf + torch.randn(leaf.shape, generator=generator))
    if _near(_made(called, other, own), plain):
        return False  # it is not read as numbers at all
    turns = torch.randint(-2, 3, leaf.shape, generator=generator) * (2 * math.pi)
    if _near(_made(called, _with(called, index, leaf + turns), own), plain):
        return True
    if leaf.shape[1:] != called.tokens.shape[1:]:
        return False
    moved = _with(called, index, torch.zeros_like(leaf))
    moved[called.sequence] = called.tokens + leaf
    return _near(_made(called, moved, own), plain)


def _with(called: Called, index: int, value: Tensor) -> list[Any]:
    return [value if i == index else leaf for i, leaf in enumerate(called.leaves)]


def _made(called: Called, leaves: list[Any], own: Callable[..., Any]) -> list[Tensor]:
    args, kwargs = called.with_leaves(leaves)
    return [each for each in pytree.tree_leaves(own(*args, **kwargs)) if isinstance(each, Tensor)]


def _near(made: list[Tensor], plain: list[Tensor]) -> bool:
    return all((a - b).abs().max() <= ROUNDING * b.abs().max() for a, b in zip(made, plain, strict=True))
