"""Construction: tables have their values and FP32, weights no memory until they are given some."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dsr_export.families.diffusers.general.building import built, given_memory


class _Model(nn.Module):
    freqs: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.start = nn.Parameter(torch.randn(3))
        self.register_buffer("freqs", torch.arange(5, dtype=torch.float64), persistent=False)
        self.turns = torch.polar(torch.ones(3, dtype=torch.float64), torch.arange(3).double())
        self.axes = [torch.arange(2, dtype=torch.float64), torch.arange(3)]


def test_tables_are_there_and_weights_are_not() -> None:
    before = torch.random.get_rng_state()
    made = built(_Model)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(weight.is_meta for weight in made.parameters())
    assert made.freqs.dtype == torch.float32 and made.freqs.tolist() == [0, 1, 2, 3, 4]
    assert made.turns.dtype == torch.complex64 and torch.allclose(made.turns.abs(), torch.ones(3))
    assert [axis.dtype for axis in made.axes] == [torch.float32, torch.int64]


def test_memory_is_given_once_to_what_is_shared() -> None:
    made = built(_Model)
    given_memory(made)
    assert not any(weight.is_meta for weight in made.parameters())
    assert made.first.weight is made.second.weight
    assert len(list(made.parameters())) == 4


def test_construction_elsewhere_is_as_before() -> None:
    built(_Model)
    assert not nn.Linear(2, 2).weight.is_meta
