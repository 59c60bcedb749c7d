"""PyTorch rounding otherwise: numbers go a step off, and nothing that no runtime rounds does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dsr_export.config import BatchRange
from dsr_export.parity.golden.vectors import SPECIAL, WALKED, Golden, make_golden
from dsr_export.subjects.module import subject_from
from dsr_export.subjects.other_rounding import ODD, PART, OtherRounding
from dsr_export.subjects.torch_runner import TorchRunner

X = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))


def _otherwise(call: object, *values: Tensor) -> Tensor:
    assert callable(call)
    with torch.no_grad(), OtherRounding():
        made = call(*values)
    assert isinstance(made, Tensor)
    return made


def test_every_number_goes_one_step_up_or_down() -> None:
    truth, made = X * 3, _otherwise(lambda x: x * 3, X)
    steps = (made.view(torch.int32) - truth.view(torch.int32)).tolist()
    assert {step for row in steps for step in row} == {-1, 1}


def test_equal_numbers_go_the_same_way_and_opposite_ones_mirror() -> None:
    made = _otherwise(lambda x: torch.cat([x, x, -x]) * 3, X)
    assert torch.equal(made[:64], made[64:128]) and torch.equal(made[:64], -made[128:])


def _at_once(value: Tensor) -> Tensor:
    """What is done part by part, of the whole."""
    bits = value.contiguous().view(torch.int32)
    made = bits + (((bits * ODD >> 16) & 2) - 1)
    return torch.where(value == value.round(), value, made.view(torch.float32))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_numbers_are_the_same_in_parts_and_lie_as_they_lay(order: tuple[int, ...]) -> None:
    given = torch.randn(3, PART // 4, 2, generator=torch.Generator().manual_seed(1)).round(decimals=1).permute(order)
    truth, made = given * 3, _otherwise(lambda x: x * 3, given)
    assert torch.equal(made, _at_once(truth)) and made.stride() == truth.stride()


class Made(TorchDispatchMode):
    """How many numbers each operation makes anew."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sizes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.sizes += [] if func.is_view else [made.numel()]
        return made


def test_no_copy_is_made_of_the_whole_but_the_result() -> None:
    given = torch.ones(4, PART)
    with Made() as seen:
        _otherwise(lambda x: x * 3, given)
    assert seen.sizes.count(4 * PART) == 2  # the product, and the same a step off


def test_nothing_is_asked_of_a_tensor_without_numbers() -> None:
    assert _otherwise(lambda x: x[:0] * 3, X).shape == (0, 8)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: (1 - (x > 0).float()) * -1e9,
        lambda x: torch.where(x > 0, x, torch.finfo(torch.float32).min).T.clone(),
        lambda x: torch.cat([x, x]).repeat(2, 1)[:, :3].relu(),
        lambda x: x.masked_fill(x > 0, float("-inf")),
        lambda x: (x > 0).sum(-1, keepdim=True),
        lambda x: torch.zeros_like(x) @ x.T,
    ],
)
def test_what_no_runtime_rounds_stays(call: object) -> None:
    assert callable(call)
    assert torch.equal(_otherwise(call, X), call(X))


def test_nothing_is_written_into_what_the_module_holds() -> None:
    class Writing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", X[0].clone())

        def forward(self, x: Tensor) -> Tensor:
            scale = self.get_buffer("scale")
            scale.mul_(1.0)
            return x * scale

    module = Writing()
    _otherwise(module, X)
    assert torch.equal(module.get_buffer("scale"), X[0])


class TwoNorms(nn.Module):
    """Zeros become equal tokens, of which an instance norm leaves rounding; the second norm makes that loud."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.into, self.eps = nn.Linear(8, 8), eps

    def forward(self, x: Tensor) -> Tensor:
        x = F.instance_norm(self.into(x).mT).mT
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)


def _golden(eps: float, **walked: np.ndarray) -> Golden:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 8)
    subject = subject_from((TwoNorms(eps), {"x": x}), name="m", called="m", provenance={})
    reference = TorchRunner(subject)
    batch = BatchRange(1, 2, 2)
    return make_golden(subject, reference, batch=batch, sampler=None, progress=lambda _, __: None, walked=walked)


def test_rows_that_are_zero_and_rounding_inside_are_left_out() -> None:
    unsteady, steady = _golden(1e-15), _golden(1.0)
    assert (unsteady.tried, unsteady.left_out) == (5, 2)  # zeros, and equal tokens
    assert steady.left_out == 0
    rows = unsteady.further[SPECIAL].inputs["x"]
    assert not any(np.array_equal(row, 0 * row) for row in rows)
    assert any(np.array_equal(row, 0 * row) for row in steady.further[SPECIAL].inputs["x"])


def test_so_are_such_rows_of_a_walk_unless_there_are_no_others() -> None:
    x = np.random.default_rng(0).standard_normal((3, 5, 8)).astype(np.float32)
    x[1] = 0
    golden = _golden(1e-15, x=x)
    assert np.array_equal(golden.further[WALKED].inputs["x"], x[[0, 2]])
    assert (golden.tried, golden.left_out) == (8, 3)
    assert golden.further[WALKED].outputs["out"].shape == x[:2].shape
    assert np.array_equal(_golden(1e-15, x=x[1:2]).further[WALKED].inputs["x"], x[1:2])
