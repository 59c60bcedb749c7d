"""Blocks of any transformer: found by running it, whatever they take and return, and whose their rows are."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dsr_export.errors import ExportError
from dsr_export.families.diffusers.general.joined import find_blocks, joined_rows


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


def _run(transformer: nn.Module, image: int = 5, text: int = 3) -> Any:
    """Runs it with the same zeros each time, but for ones in the stream that is to be another."""

    def run(other: str | None) -> Any:
        made = (torch.full((1, rows, 4), float(other == stream)) for stream, rows in (("image", image), ("text", text)))
        return transformer(*made)

    return run


def test_they_are_in_the_order_of_their_calls_with_the_places_of_both_streams() -> None:
    transformer = Transformer()
    found = find_blocks(transformer, _run(transformer))
    assert [(each.name, dict(each.places), dict(each.others)) for each in found] == [
        ("joint.0", {"image": 1, "text": 0}, {}),
        ("joint.1", {"image": 1, "text": 0}, {}),
        ("single.0", {"image": None, "text": None}, {"image": (0, 1, 2), "text": (3, 4, 5, 6, 7)}),
    ]
    assert not any(module._forward_hooks or "forward" in vars(module) for module in transformer.modules())


class Pair(nn.Module):
    """Returns something beside its tokens."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.mean(1), x + 1


class Padded(nn.Module):
    """Refines either stream by itself, as Lumina's and Z-Image's do, and joins them with rows that nobody gave."""

    def __init__(self) -> None:
        super().__init__()
        self.refine_text = nn.ModuleList([Single()])
        self.refine_image = nn.ModuleList([Single()])
        self.layers = nn.ModuleList([Single(), Pair(), Single()])
        self.padding = nn.Parameter(torch.full((1, 2, 4), 9.0))

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        x = torch.cat([self.refine_image[0](x), self.padding], 1)
        h = torch.cat([self.padding[:, :1], self.refine_text[0](text), self.padding, x], 1)
        for layer in self.layers:
            h = layer(h)
            h = h[1] if isinstance(h, tuple) else h
        return h


def test_rows_of_neither_stream_belong_to_those_that_they_stand_behind() -> None:
    transformer = Padded()
    found = {each.name: each for each in find_blocks(transformer, _run(transformer))}
    assert dict(found["refine_text.0"].places) == {"text": None}
    assert dict(found["refine_image.0"].places) == {"image": None} and not found["refine_image.0"].others
    for name, place in (("layers.0", None), ("layers.1", 1), ("layers.2", None)):
        assert found[name].others == {"image": tuple(range(6)), "text": tuple(range(6, 13))}
        assert dict(found[name].places) == {"image": place, "text": place}


def test_the_prompts_rows_of_a_joined_sequence_are_told() -> None:
    for transformer, rows in ((Transformer(), (0, 3)), (Padded(), (0, 6))):
        found = find_blocks(transformer, _run(transformer))
        assert joined_rows(found) == rows
        apart = [each for each in found if not each.others]
        assert apart and joined_rows(apart) is None
        split = [dataclasses.replace(each, others={"image": (0, 2), "text": (1, 3)}) for each in found]
        assert joined_rows(split) is None
        among = [dataclasses.replace(each, others={"image": (0, 1), "text": (3, 4)}) for each in found]
        assert joined_rows(among) is None  # row 2 is of neither


def test_streams_of_one_length_are_not_told_apart() -> None:
    transformer = Transformer()
    with pytest.raises(ExportError, match="'joint.0' returns several streams of 5 tokens"):
        find_blocks(transformer, _run(transformer, text=5))
    assert not any(module._forward_hooks for module in transformer.modules())


def test_a_model_without_lists_has_none() -> None:
    model = Single()
    assert find_blocks(model, lambda _: model(torch.zeros(1, 5, 4))) == ()
