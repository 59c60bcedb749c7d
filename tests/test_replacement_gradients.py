"""Gradients through replacement: what training registers and gates needs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dsr_export.registers import RecursiveReplacement, Rule


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
