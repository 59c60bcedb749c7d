"""`y[mask] = value` is a choice, whatever the mask covers and the value fits; what picks elements is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dsr_export.errors import ExportError
from tests.traced_modules import agree, subject_of


def written(x: Tensor, key: Any, value: Any) -> Tensor:
    y = x.clone()
    y[key] = value
    return y


def every_form(s: Any, x: Tensor) -> dict[str, Tensor]:
    """Masks over [B, 6], [B, 6, 8], [B], an axis in the middle and the last; values of every shape that fits."""
    rows, everywhere, samples = x[..., 0] > 0, x > 0.5, x[:, 0, 0] > 0
    middle, last = x[0, :, 0] > 0, x[0, 0] > 0
    made = {
        "scalar": written(x, ~rows, 0.0),
        "integer": written(x, rows, 1),
        "everywhere": written(x, everywhere, -1e4),
        "tensor": written(x, rows, torch.tensor(2.0)),
        "one": written(x, rows, torch.tensor([2.0])),
        "computed": written(x, rows, x.mean()),
        "row": written(x, rows, s.linear.bias),
        "row_of_one": x.index_put((rows,), s.token[0]),
        "sample": written(x, samples, s.positions[0]),
        "sample_of_one": x.index_put((samples,), s.positions),
        "middle": written(x, (slice(None), middle), 0.0),
        "middle_row": written(x, (slice(None), middle), s.linear.bias),
        "middle_each": written(x, (slice(None), middle), x[:, :1]),
        "last": written(x, (..., last), 3.0),
        "last_each": written(x, (..., last), x[..., :1]),
        "column": written(x, (rows, 0), 5.0),
        "columns": written(x, (rows, slice(2, 4)), 5.0),
        "integers": written((3 * x).long(), rows, 7),
        "added": x.index_put((rows,), torch.tensor(1.5), accumulate=True),
        "twice": written(written(x, rows, 1.0), x < -1, 2.0),
    }
    y = x.clone()
    y[0][rows[0]] = 4.0
    y.index_put_((samples,), s.positions[0])
    return {**made, "in_place": y}


def test_a_write_through_a_mask_is_a_choice(tmp_path: Path) -> None:
    ops = agree(subject_of(every_form), tmp_path / "traced.onnx", sizes=(1, 3))[1]
    assert "Where" in ops
    assert "NonZero" not in ops


def picked(s: Any, x: Tensor) -> Tensor:
    return x + s.linear(x)[x[..., 0] > 0].sum(0)


def scattered(s: Any, x: Tensor) -> Tensor:
    return x.masked_scatter(x > 0, s.positions.expand_as(x))


def elsewhere(s: Any, x: Tensor) -> Tensor:
    y = x.clone()
    y[x > 0] = x[x.flip(0).flip(0) > 0] + 1
    return y


@pytest.mark.parametrize("body", [picked, scattered, elsewhere], ids=lambda body: body.__name__)
def test_what_a_mask_picks_is_refused_with_its_line(body: Any, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"depend on the values .*NonZero.* at .*\.py:\d+ `") as refused:
        subject_of(body).trace(tmp_path / "traced.onnx")
    assert "torch.where(mask, a, b)" in (refused.value.hint or "")


def changed(s: Any, x: Tensor) -> dict[str, Tensor]:
    """What masks pick, changed and put back: of rows, of elements, of another tensor, twice."""
    rows, everywhere = x[..., 0] > 0, x > 0.5
    dropped, grown, other, twice = (x.clone() for _ in range(4))
    dropped[rows] *= 0.0
    grown[everywhere] += 1
    other[rows] = -s.linear(x)[rows].exp() * torch.tensor(2.0)
    twice[rows] *= 3
    twice[everywhere] = twice[everywhere].clamp(max=1)
    return {"dropped": s.linear(dropped), "grown": grown, "other": other, "twice": twice}


def test_what_a_mask_picks_and_gets_back_is_computed_of_all(tmp_path: Path) -> None:
    assert "NonZero" not in agree(subject_of(changed), tmp_path / "traced.onnx", sizes=(1, 3))[1]
