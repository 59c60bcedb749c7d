"""Gradients through replacement: what training registers and gates needs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dsr_export.registers import Choice, RecursiveReplacement, Rule


def _tokens() -> Tensor:
    torch.manual_seed(0)
    x = torch.randn(3, 10, 8, dtype=torch.float64)
    x[:2, 4] *= 9
    x[0, 7] *= 30
    return x  # the last image has no outlier


def _by_hand(x: Tensor, site: RecursiveReplacement, rows: Tensor) -> Tensor:
    """One round of the gate under the median rule, image by image."""
    made = []
    for image in x:
        norms = image.norm(dim=-1)
        outlier = norms > site.threshold * norms.median()
        mixture = (image @ site.choice_weight).softmax(-1) @ rows
        strength = (image @ site.gate_weight + site.gate_bias).sigmoid()
        made.append(torch.where(outlier[:, None], image + strength * (mixture - image), image))
    return torch.stack(made)


def test_the_gate_has_the_gradients_of_its_formula() -> None:
    rows = torch.randn(4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    site = RecursiveReplacement(rule="median", threshold=4.0, choice="gate", registers=rows, gate_shape=(4, 8)).double()
    site.registers = rows
    with torch.no_grad():
        for weight in site.parameters():
            weight.normal_(generator=torch.Generator().manual_seed(2)).mul_(0.1)
    given = _tokens().requires_grad_()
    wanted = [given, rows, site.choice_weight, site.gate_weight, site.gate_bias]
    upstream = torch.randn(3, 10, 8, dtype=torch.float64)
    found = torch.autograd.grad((site(given) * upstream).sum(), wanted)
    expected = torch.autograd.grad((_by_hand(given, site, rows) * upstream).sum(), wanted)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)  # the gate is float32 inside
    assert all(each.abs().max() > 0 for each in found)


@pytest.mark.parametrize("rule", ["absolute", "median", "sigma"])
def test_a_replaced_token_passes_its_gradient_to_the_register(rule: Rule) -> None:
    rows = torch.eye(8)[:3].clone().requires_grad_()
    threshold = 20.0 if rule == "absolute" else 2.0 if rule == "sigma" else 4.0
    site = RecursiveReplacement(rule=rule, threshold=threshold, rounds=2, registers=rows)
    site.registers = rows
    x = _tokens().float().requires_grad_()
    made = site(x)
    made.sum().backward()
    changed = (made != x).any(-1)
    assert x.grad is not None and rows.grad is not None and changed.any()
    assert (x.grad[changed] == 0).all() and (x.grad[~changed] == 1).all()
    assert rows.grad.sum() == 8 * changed.sum()


def test_frozen_tokens_need_no_gradient() -> None:
    rows = torch.eye(8)[:3].clone().requires_grad_()
    site = RecursiveReplacement(rule="median", threshold=4.0, registers=rows)
    site.registers = rows
    site(_tokens().float()).sum().backward()
    assert rows.grad is not None and rows.grad.abs().sum() > 0
    assert site(_tokens()[2:].float()).grad_fn is not None  # nothing to replace, nothing to learn


@pytest.mark.parametrize("rule", ["absolute", "median", "sigma"])
@pytest.mark.parametrize("choice", ["nearest", "gate", "mask", "clip"])
@pytest.mark.parametrize("odd", [0.0, torch.inf, torch.nan])
def test_tokens_without_a_direction_leave_every_gradient_finite(rule: Rule, choice: Choice, odd: float) -> None:
    """Zero tokens, broken ones, and an image of equal tokens, whose norms do not vary."""
    rows = torch.eye(8)[:3].clone().requires_grad_()
    threshold = {"absolute": 12.0, "median": 3.0, "sigma": 1.5}[rule]
    site = RecursiveReplacement(rule=rule, threshold=threshold, choice=choice, gate_shape=(3, 8))
    x = _tokens().float()
    x[0, 2], x[2] = odd, 0.5
    x.requires_grad_()
    made = site(x, rows)
    found = torch.autograd.grad(made.square().sum(), [x, rows, *site.parameters()], allow_unused=True)
    assert (made != x).any() and all(each.isfinite().all() for each in found if each is not None)


def test_every_choice_has_the_slope_that_its_outputs_have() -> None:
    """Central differences along one direction, within float32; tokens stay on their sides of the thresholds."""
    torch.manual_seed(3)
    rows, along = 2 * torch.randn(4, 8), 1e-2 * torch.randn(3, 10, 8)
    for rule, threshold in (("absolute", 12.0), ("median", 3.0), ("sigma", 1.5)):
        for choice in ("nearest", "gate", "mask", "clip"):
            site = RecursiveReplacement(
                rule=rule,  # type: ignore[arg-type]
                threshold=threshold,
                rounds=2,
                choice=choice,  # type: ignore[arg-type]
                gate_shape=(4, 8),
            )
            for weight in site.parameters():
                torch.nn.init.normal_(weight, std=0.1)
            x = _tokens().float().requires_grad_()
            (slope,) = torch.autograd.grad(site(x, rows).square().sum(), x)
            with torch.no_grad():
                ends = [site(x + sign * along, rows).double().square().sum() for sign in (1, -1)]
            wanted = float(ends[0] - ends[1]) / 2
            assert float((slope * along).sum()) == pytest.approx(wanted, rel=2e-3, abs=2e-3), (rule, choice)
