"""What registers have in the tables and masks of a block: nothing that moves, hides or tells them from the image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dsr_export.families.diffusers.general.inserting.fills import Fill, fill_of

ANGLES = torch.arange(1, 7)[:, None] * torch.tensor([0.5, 0.1, 0.01])  # [6, 3]
COS, SIN = ANGLES.cos(), ANGLES.sin()


def _fill(*leaves: Any, index: int = 0, axes: tuple[int, ...] = (0,)) -> Fill | None:
    """Of six tokens, the last four are the image's."""
    return fill_of(index, [leaves], axes, [range(2, 6)] * len(axes))


def _entries(fill: Fill | None, leaf: Tensor, axis: int = 0) -> Tensor:
    assert fill is not None
    return fill.entries(leaf, axis, 2, 2)


def test_rotations_leave_them_as_they_are() -> None:
    assert _fill(COS, SIN) == Fill("value", 1.0) and _fill(COS, SIN, index=1) == Fill("value", 0)
    assert _fill(torch.polar(torch.ones_like(ANGLES), ANGLES)) == Fill("value", 1)
    matrices = torch.stack([COS, -SIN, SIN, COS], -1).unflatten(-1, (2, 2))
    assert torch.equal(_entries(_fill(matrices), matrices), torch.eye(2).expand(2, 3, 2, 2))
    stacked = torch.stack([COS, SIN], 1)  # [6, 2, 3]
    assert torch.equal(_entries(_fill(stacked), stacked), torch.tensor([[1.0], [0.0]]).expand(2, 2, 3))


def test_tables_that_also_lengthen_do_so_for_registers() -> None:
    assert _fill(1.2 * COS, 1.2 * SIN) == Fill("value", 1.2)


def test_sines_in_front_of_cosines_are_not_guessed_at() -> None:
    assert _fill(SIN, COS) is None and _fill(SIN, COS, index=1) is None


def test_what_the_image_has_in_common_is_theirs_too() -> None:
    ids = torch.tensor([3, 3, 2, 2, 2, 2])
    assert _entries(_fill(ids), ids).tolist() == [2, 2]
    modulation = torch.randn(6, 4).index_copy(0, torch.arange(2, 6), torch.ones(4, 4))
    assert torch.equal(_entries(_fill(modulation), modulation), torch.ones(2, 4))
    seen = torch.ones(6, 6, dtype=torch.bool).index_fill(1, torch.tensor([1]), False)  # nobody sees the padding
    assert _fill(seen, axes=(0, 1)) == Fill("like")


def test_masks_hide_none_of_them() -> None:
    hidden = torch.tensor([True, False, True, True, True, False])
    assert _fill(hidden) == Fill("seen", True, False)
    assert _fill(hidden.long()) == Fill("seen", 1)
    assert _fill(torch.where(hidden, 0.0, -1e4)) == Fill("seen", 0, -1e4)
    assert _fill(torch.where(hidden, 0.0, -torch.inf)) == Fill("seen", 0, -torch.inf)


def test_anything_else_says_nothing_of_them() -> None:
    assert _fill(torch.randn(6, 4, generator=torch.Generator().manual_seed(0))) is None
    assert _fill(torch.arange(6)) is None
    assert fill_of(0, [[torch.arange(6)]], [0], [[4]]) is None  # of one token, nothing is common to all
    assert _fill(torch.ones(6, 6).tril().bool(), axes=(0, 1)) is None  # what came before what
    assert _fill(torch.polar(1 + ANGLES, ANGLES)) is None
