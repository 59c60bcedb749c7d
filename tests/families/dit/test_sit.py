"""`Sit`: DiT's network, the velocity half of its output, and time from noise to data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dsr_export.errors import ExportError
from dsr_export.families import load_subject
from dsr_export.families.dit.network import Dit, DitConfig
from dsr_export.families.dit.sit import Sit
from dsr_export.families.network_parts.randomise import drawn
from dsr_export.sampling import sample, seeded_noise
from tests.families.tiny_sizes import SIZES


@pytest.mark.parametrize("learn_sigma", [True, False])
def test_it_is_the_first_half_of_what_dit_gives(learn_sigma: bool) -> None:
    config = DitConfig(**SIZES, learn_sigma=learn_sigma)
    sit, dit = drawn(Sit, config, 0), drawn(Dit, config, 0)
    x, t, y = torch.randn(2, 3, 4, 4), torch.tensor([0.0, 0.7]), torch.tensor([1, 5])
    assert torch.equal(sit(x, t, y), dit(x, t, y)[:, :3])
    assert sit(x, t, y).shape == x.shape


@pytest.mark.parametrize("learn_sigma", [True, False])
def test_learned_sigma_is_read_off_the_ema_weights(tmp_path: Path, learn_sigma: bool) -> None:
    config = DitConfig(**SIZES, learn_sigma=learn_sigma)
    module = drawn(Sit, config, 0)
    stale = drawn(Sit, config, 1).state_dict()
    torch.save({"model": stale, "ema": module.state_dict(), "opt": {}}, tmp_path / "a.pt")
    sizes = {name: SIZES[name] for name in ("hidden_size", "depth", "num_heads", "num_classes")}
    subject = load_subject("sit", checkpoint=tmp_path / "a.pt", **sizes)
    inputs = torch.randn(2, 3, 4, 4), torch.rand(2), torch.tensor([1, 5])
    assert torch.equal(subject.module(*inputs), module(*inputs))
    assert subject.config["learn_sigma"] is learn_sigma and subject.family == "sit"


def test_a_subject_walks_from_noise_at_0_to_data_at_1() -> None:
    subject = load_subject("sit", random_weights=0, **SIZES)
    assert subject.sampler is not None and subject.sampler.prediction == "velocity"
    assert subject.sampler.grid[[0, -1]].tolist() == [0.0, 1.0]
    assert 0 < subject.example(8, seed=0)["t"].max() <= 1
    noise, target = seeded_noise(0, 2, (3, 4, 4)), np.float32(0.5)
    found = sample(lambda inputs: target - noise, subject.sampler, noise, np.zeros(2, np.int64))
    np.testing.assert_allclose(found, 0.5, atol=1e-5)


def test_a_size_of_the_other_family_is_no_size() -> None:
    with pytest.raises(ExportError, match="sit-xl-3") as caught:
        load_subject("sit-xl-3", random_weights=0)
    assert "sit-xl-" in str(caught.value.hint)
