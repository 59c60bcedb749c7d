"""Blocks that look as if they had room for registers, and have none: each is refused, with its reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dsr_export.errors import ExportError
from dsr_export.families.diffusers.general.blocks import seen_blocks
from dsr_export.families.diffusers.general.inserting.fills import Fill
from dsr_export.families.diffusers.general.inserting.plan import Plan, plan_of
from dsr_export.families.diffusers.general.joined import blocks_seen

N, D, R = 6, 8, 2
ROWS = torch.randn(R, D, generator=torch.Generator().manual_seed(1))
Body = Callable[[Tensor, Tensor], Tensor]


def _attended(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """[B, N, D]; `mask` [B, N] is true where a token is seen."""
    return nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=None if mask is None else mask[:, None])


class Block(nn.Module):
    def __init__(self, body: Body) -> None:
        super().__init__()
        self.body = body

    def forward(self, hidden_states: Tensor, beside: Tensor) -> Tensor:
        return hidden_states + self.body(hidden_states, beside)


class Transformer(nn.Module):
    def __init__(self, body: Body) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(body), Block(body)])

    def forward(self, x: Tensor, beside: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, beside)
        return x


def _plan(body: Body, beside: Callable[[torch.Generator], Tensor]) -> Plan:
    transformer = Transformer(body)

    def run(seed: int) -> Any:
        generator = torch.Generator().manual_seed(seed)
        return transformer(torch.randn(2, N, D, generator=generator), beside(generator))

    found = seen_blocks(transformer, lambda _: run(0))
    return plan_of("Model", found, blocks_seen(found, lambda other: run(int(other is not None))), ROWS, 0, run, 2)


def _mask(generator: torch.Generator) -> Tensor:
    return torch.rand(2, N, generator=generator) < 0.6


def _numbers(generator: torch.Generator) -> Tensor:
    return torch.randn(2, N, D, generator=generator)


def _fills(plan: Plan) -> list[Fill | None]:
    return [each.fill for extension in plan.extensions.values() for each in extension]


def test_a_mask_of_what_is_seen_sees_them() -> None:
    assert _fills(_plan(_attended, _mask)) == [Fill("seen", True, False)] * 2


def test_angles_and_added_places_leave_them_alone() -> None:
    turning = lambda x, angles: _attended(x * angles.cos() + x.flip(-1) * angles.sin())  # noqa: E731
    assert _fills(_plan(turning, _numbers)) == [Fill("value", 0)] * 2
    adding = lambda x, places: _attended(x + places) + places  # noqa: E731
    assert _fills(_plan(adding, _numbers)) == [Fill("value", 0)] * 2


@pytest.mark.parametrize(
    ("body", "beside", "message"),
    [
        (lambda x, flag: _attended(x + flag[..., None]), _mask, "'beside' tells tokens of the image apart"),
        (lambda x, scale: _attended(x * scale), _numbers, r"'beside' \[2, 6, 8\] with values for each token"),
        (lambda x, _: _attended(x) + x.roll(1, 1), _mask, "depends on where the token stands"),
        (lambda x, _: _attended(x) + nn.functional.pad(x[:, :1], (0, 0, 0, x.shape[1] - 1)), _mask, "depends on where"),
        (lambda x, _: x.unflatten(1, (2, N // 2)).sum(1).repeat(1, 2, 1), _mask, "more tokens than the picture has"),
    ],
    ids=["a flag", "a scale", "a neighbour", "a first token", "a grid"],
)
def test_what_tells_tokens_apart_has_no_room_for_them(body: Body, beside: Any, message: str) -> None:
    with pytest.raises(ExportError, match=rf"Model takes no registers .*: of block 'blocks.0', .*{message}"):
        _plan(body, beside)


def test_a_neighbour_shows_beside_a_massive_token() -> None:
    """Of the largest token's change, what the others take from their neighbours is nothing."""

    def body(x: Tensor, massive: Tensor) -> Tensor:
        return _attended(x) + 0.1 * x.roll(1, 1) + 1e4 * massive[:, None] * (x[..., :1] == x[..., :1].amax(1, True))

    with pytest.raises(ExportError, match="depends on where the token stands"):
        _plan(body, lambda generator: torch.rand(2, D, generator=generator))
