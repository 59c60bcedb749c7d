"""Rows of inputs: those that a user would give with a module, and others that it will meet later."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tests.generated.grammar import CLASSES, DIM, TOKENS

HELD_OUT = ("drawn", "prefix", "zeros", "masked", "tiny", "huge")


def example_rows(needs: Sequence[str], form: str, seed: int) -> dict[str, Tensor]:
    """Three rows: masks `mixed`, all `ones`, or `prefix`es."""
    return _rows(needs, form, 3, torch.Generator().manual_seed(seed))


def held_out_rows(needs: Sequence[str], form: str, count: int, seed: int) -> dict[str, Tensor]:
    """`count` rows that the tool has not seen.

    `drawn`: of the same kind. `prefix`: masks as padding has them. `zeros`: no token, no condition. `masked`: a mask of
    nothing in the first row. `tiny` and `huge`: tokens a thousandth, or thirty times, as large.
    """
    masks = {"zeros": "mixed", "tiny": "mixed", "huge": "mixed", "drawn": "mixed"}.get(form, "prefix")
    rows = _rows(needs, masks, count, torch.Generator().manual_seed(1000 + seed))
    scale = {"zeros": 0.0, "tiny": 1e-3, "huge": 30.0}.get(form, 1.0)
    for name in ("x", "c"):
        if name in rows:
            rows[name] = rows[name] * scale
    if form == "masked":
        _mask_all(rows)
    return rows


def _mask_all(rows: dict[str, Tensor]) -> None:
    for name, nothing in (("keep", False), ("weight", 0.0), ("bias", -1e4)):
        if name in rows:
            rows[name][0] = nothing


def _rows(needs: Sequence[str], masks: str, count: int, generator: torch.Generator) -> dict[str, Tensor]:
    keep = _kept(masks, count, generator)
    bias = torch.where(keep[:, None, :].expand(-1, TOKENS, -1), 0.0, -1e4)
    made = {
        "x": torch.randn(count, TOKENS, DIM, generator=generator),
        "c": torch.randn(count, DIM, generator=generator),
        "t": torch.rand(count, generator=generator) * 1000,
        "y": torch.randint(0, CLASSES, (count,), generator=generator),
        "keep": keep,
        "weight": keep * (0.5 + 0.5 * torch.rand(count, TOKENS, generator=generator)),
        "bias": bias,
    }
    return {name: made[name] for name in ("x", *needs)}


def _kept(masks: str, count: int, generator: torch.Generator) -> Tensor:
    """[count, TOKENS] bool; the first token always counts."""
    if masks == "ones":
        return torch.ones(count, TOKENS, dtype=torch.bool)
    if masks == "prefix":
        return torch.arange(TOKENS) < torch.randint(1, TOKENS + 1, (count, 1), generator=generator)
    keep = torch.rand(count, TOKENS, generator=generator) < 0.7
    keep[:, 0] = True
    return keep
