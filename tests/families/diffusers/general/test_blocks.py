"""Blocks of any transformer: found by running it, whatever they are called with and return."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dsr_export.errors import ExportError
from dsr_export.families.diffusers.general.blocks import find_blocks


class Single(nn.Module):
    def forward(self, x: Tensor, temb: Any = None) -> Tensor:
        return x + 1


class Double(nn.Module):
    """Text first, as most return it."""

    def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        return encoder_hidden_states + 1, hidden_states + 1


class Pooling(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1, keepdim=True)


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.joint = nn.ModuleList([Double(), Double()])
        self.single = nn.ModuleList([Single()])
        self.heads = nn.ModuleList([Pooling()])
        self.narrow = nn.ModuleList([Single()])
        self.unused = nn.ModuleList([Single()])

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        for block in self.joint:
            text, x = block(x, encoder_hidden_states=text)
        x = self.single[0](torch.cat([text, x], 1), temb=x)
        self.narrow[0](x[..., :3])
        made: Tensor = self.heads[0](x)
        return made


def test_they_are_in_the_order_of_their_calls_with_the_place_of_the_image() -> None:
    transformer = Transformer()
    found = find_blocks(transformer, lambda: transformer(torch.zeros(1, 5, 4), torch.zeros(1, 3, 4)))
    assert [(each.name, each.place, each.width) for each in found] == [
        ("joint.0", 1, 4),
        ("joint.1", 1, 4),
        ("single.0", None, 4),
    ]
    assert not any(module._forward_hooks for module in transformer.modules())


def test_streams_of_one_length_are_not_told_apart() -> None:
    transformer = Transformer()
    with pytest.raises(ExportError, match="'joint.0' returns several streams of 5 tokens"):
        find_blocks(transformer, lambda: transformer(torch.zeros(1, 5, 4), torch.zeros(1, 5, 4)))
    assert not any(module._forward_hooks for module in transformer.modules())


def test_a_model_without_lists_has_none() -> None:
    model = Single()
    assert find_blocks(model, lambda: model(torch.zeros(1, 5, 4))) == ()
