"""The losses against their formulas."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dsr_export.families import load_subject
from dsr_export.fitting.data import Inputs, Latents
from dsr_export.fitting.losses import Distillation, Draw, TrainingLoss, drawn_times, norm_term
from dsr_export.registers import RecursiveReplacement, Rule
from dsr_export.sampling import SamplerSpec, step_table, trajectory
from tests.families.tiny_sizes import SIZES

CLEAN = np.random.default_rng(0).standard_normal((1, 2, 4, 4)).astype(np.float32)
SPECS = {
    "data": SamplerSpec(prediction="data", null_label=3),
    "velocity": SamplerSpec(prediction="velocity", noise_scale=2.0),
    "reversed data": SamplerSpec(prediction="data", path="reversed"),
    "reversed velocity": SamplerSpec(prediction="velocity", path="reversed", shift_dim=8192),
    "noise": SamplerSpec(prediction="epsilon", path="ddpm"),
}


def drawn(rows: int, seed: int, part: slice = slice(None)) -> Draw:
    return Draw(rows=rows, generator=torch.Generator().manual_seed(seed), part=part)


class _Knowing(nn.Module):
    """Predicts what is right for the one clean latent there is, or that plus an error."""

    def __init__(self, spec: SamplerSpec, error: float = 0.0) -> None:
        super().__init__()
        self.spec, self.error = spec, nn.Parameter(torch.tensor(error), requires_grad=False)
        self.labels: list[Tensor] = []

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        self.labels.append(y)
        clean = torch.from_numpy(CLEAN)
        if self.spec.path == "ddpm":
            power = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)[t.long()]
            power = power.float()[:, None, None, None]
            return (x - power.sqrt() * clean) / (1 - power).sqrt() + self.error
        share = (1 - t if self.spec.path == "reversed" else t)[:, None, None, None]
        noise = (x - (1 - share) * clean) / share
        velocity = clean - noise if self.spec.path == "reversed" else noise - clean
        return (clean.expand_as(x) if self.spec.prediction == "data" else velocity) + self.error


@pytest.mark.parametrize("name", SPECS)
def test_the_right_prediction_has_no_loss_and_draws_the_clean_latent(name: str) -> None:
    spec = SPECS[name]
    loss = TrainingLoss(spec, Latents(values=CLEAN, labels=np.zeros(1, np.int64)))
    module = _Knowing(spec)
    assert float(loss(module, drawn(64, 0))) < 1e-5
    *_, last = trajectory(
        lambda fed: module(*map(torch.from_numpy, fed.values())).detach().numpy(), spec, CLEAN * 0 + 1, np.zeros(1, int)
    )
    np.testing.assert_allclose(last.state, CLEAN, atol=0.08)  # which divides by 0.05 at least


@pytest.mark.parametrize("name", ["velocity", "reversed velocity", "noise"])
def test_an_error_counts_by_its_square(name: str) -> None:
    loss = TrainingLoss(SPECS[name], Latents(values=CLEAN, labels=np.zeros(1, np.int64)))
    assert float(loss(_Knowing(SPECS[name], 0.5), drawn(64, 0))) == pytest.approx(0.25, rel=1e-3)


def test_an_error_in_data_counts_as_the_velocity_made_of_it() -> None:
    loss = TrainingLoss(SPECS["data"], Latents(values=CLEAN, labels=np.zeros(1, np.int64)))
    found = float(loss(_Knowing(SPECS["data"], 0.5), drawn(4096, 0)))
    times = drawn_times(SPECS["data"], 1_000_000, torch.Generator().manual_seed(1))
    assert found == pytest.approx(float((0.5 / times.clamp(min=0.05)).square().mean()), rel=0.15)


def test_some_labels_are_left_out_where_the_model_knows_none() -> None:
    module = _Knowing(SPECS["data"])
    TrainingLoss(SPECS["data"], Latents(values=CLEAN, labels=np.zeros(1, np.int64)))(module, drawn(1000, 0))
    assert 60 < int((module.labels[0] == 3).sum()) < 140


def test_times_are_spaced_as_the_samplers_grid() -> None:
    """The median time is that of the middle of the grid."""
    spec = SPECS["reversed velocity"]
    times = drawn_times(spec, 100_001, torch.Generator().manual_seed(0))
    middle = float(step_table(spec)[len(step_table(spec)) // 2, 0])
    assert float(times.median()) == pytest.approx(middle, abs=0.02) and abs(middle - 0.5) > 0.05


def test_distillation_is_the_distance_to_the_teacher() -> None:
    teacher, other = (load_subject("rae-dit", random_weights=seed, registers=0, **SIZES) for seed in (0, 1))
    rows: dict[str, Any] = {name: value[:1] for name, value in teacher.example(1, seed=0).items()}
    loss = Distillation(teacher, Inputs(values=rows))
    assert float(loss(teacher.module, drawn(3, 0))) == 0
    given = [torch.from_numpy(value) for value in rows.values()]
    with torch.no_grad():
        wanted, made = teacher.module(*given), other.module(*given)
    share = float((made - wanted).square().mean() / wanted.square().mean())
    assert float(loss(other.module, drawn(3, 0))) == pytest.approx(share, rel=1e-5)


def test_the_norm_term_counts_what_stands_above_the_threshold() -> None:
    tokens = torch.zeros(1, 5, 2)
    tokens[0, :, 0] = torch.tensor([1.0, 1.0, 2.0, 2.0, 12.0])  # median 2, mean 3.6
    limits: list[tuple[Rule, float]] = [("median", 4.0), ("median", 6.0), ("absolute", 8.0), ("sigma", 1.0)]
    sites = [RecursiveReplacement(rule=rule, threshold=value, choice="mask") for rule, value in limits]
    found = [float(norm_term({"a": [tokens]}, {"a": site})) for site in sites]
    sigma = (12 - 3.6 - np.std([1, 1, 2, 2, 12])) / 2
    assert found == pytest.approx([2 / 5, 0, 2 / 5, sigma / 5])  # 12 is 2 medians above 8


@pytest.mark.parametrize("name", SPECS)
def test_shares_of_a_draw_come_to_the_loss_of_all_of_it(name: str) -> None:
    """So that processes which share the rows of a step make the step that one alone would make."""
    values = np.random.default_rng(1).standard_normal((7, 2, 4, 4)).astype(np.float32)
    loss = TrainingLoss(SPECS[name], Latents(values=values, labels=np.arange(7) % 3))
    module = _Knowing(SPECS[name], 0.5)
    whole = float(loss(module, drawn(12, 5)))
    shares = [float(loss(module, drawn(12, 5, slice(first, first + 4)))) for first in (0, 4, 8)]
    assert np.mean(shares) == pytest.approx(whole, rel=1e-5)
    assert len({round(share, 6) for share in shares}) == 3


def test_shares_of_a_distillation_come_to_the_distance_of_all_of_it() -> None:
    """The power that a distance is a share of is that of all rows, whoever computes them."""
    teacher, other = (load_subject("rae-dit", random_weights=seed, registers=0, **SIZES) for seed in (0, 1))
    rows: dict[str, Any] = teacher.example(8, seed=0)
    rows["x"] = rows["x"] * np.linspace(0.1, 3, 8, dtype=np.float32)[:, None, None, None]
    loss = Distillation(teacher, Inputs(values=rows))
    with torch.no_grad():
        whole = float(loss(other.module, drawn(8, 2)))
        powers: list[Tensor] = []
        parts = [slice(0, 4), slice(4, 8)]

        def kept(value: Tensor) -> Tensor:
            powers.append(value)
            return value

        for part in parts:
            loss(other.module, dataclasses.replace(drawn(8, 2, part), everywhere=kept))
        mean = torch.stack(powers).mean()
        assert powers[0] != powers[1]
        shares = [
            float(loss(other.module, dataclasses.replace(drawn(8, 2, part), everywhere=lambda _: mean)))
            for part in parts
        ]
    assert np.mean(shares) == pytest.approx(whole, rel=1e-5)
