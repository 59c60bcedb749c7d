"""The planted model is what it says: the same function with outlier channels, and outliers at its tokens."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from dsr_export.families.network_parts.randomise import drawn
from dsr_export.families.rae_dit.network import RaeDit, RaeDitConfig
from tests.comparisons.planting import CHANNELS, GAIN, MASSIVE, MASSIVE_BLOCK, plant, plant_channels

CONFIG = RaeDitConfig(input_size=4, in_channels=8, hidden_size=384, depth=3, num_heads=4, num_classes=5)
CORNERS = [0, 3, 12, 15]


@pytest.fixture
def module() -> RaeDit:
    return drawn(RaeDit, CONFIG, 0).eval().requires_grad_(False)


def _inputs() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 8, 4, 4, generator=generator), torch.tensor([0.9, 0.1]), torch.tensor([1, 4])


def _hidden(module: RaeDit, block: int) -> np.ndarray:
    """Largest magnitude of each token and channel at the input of the block's second MLP GEMM, [tokens, hidden]."""
    seen: list[torch.Tensor] = []
    hook = module.blocks[block].mlp.w3.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    module(*_inputs())
    hook.remove()
    return seen[0].abs().amax(dim=0).numpy()


def test_outlier_channels_do_not_change_what_the_model_computes(module: RaeDit) -> None:
    planted = copy.deepcopy(module)
    plant_channels(planted)
    torch.testing.assert_close(planted(*_inputs()), module(*_inputs()), rtol=1e-4, atol=1e-4)


def test_outlier_channels_are_gain_times_larger(module: RaeDit) -> None:
    before = _hidden(module, 1).max(axis=0)
    plant_channels(module)
    grown = _hidden(module, 1).max(axis=0) / before
    np.testing.assert_allclose(grown[[c % len(grown) for c in CHANNELS]], GAIN, rtol=1e-3)
    assert (np.delete(grown, CHANNELS) < 1.01).all()


def test_planted_tokens_switch_the_massive_channels_on(module: RaeDit) -> None:
    plant(module)
    massive = _hidden(module, MASSIVE_BLOCK)[:, list(MASSIVE)].max(axis=1)
    others = np.delete(massive, CORNERS)
    assert massive[CORNERS].min() > 10 * others.max()
