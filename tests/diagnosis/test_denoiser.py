"""Walks of the packaged models: four planted corner tokens, and what replacement does to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dsr_export.diagnosis.denoiser import DenoiserDiagnosis, propose
from dsr_export.diagnosis.models.denoiser import DenoiserTokens
from dsr_export.diagnosis.record import denoiser_record
from dsr_export.diagnosis.thresholds import Limit
from dsr_export.diagnosis.verdicts import denoiser_verdict
from dsr_export.diagnosis.walk import WalkSettings, shortened
from dsr_export.families import load_subject
from dsr_export.families.rae_dit.network import RaeDit
from dsr_export.registers import RecursiveReplacement
from dsr_export.spec import ReplaceSpec
from tests.diagnosis.conftest import SHORT, diagnosed

CORNERS = [0, 7, 56, 63]


def test_the_planted_corners_are_found_behind_every_block_and_nothing_else(outliers: DenoiserDiagnosis) -> None:
    assert outliers.outlier_layers == list(range(8))
    for layer in range(8):
        assert outliers.outlier_patches(outliers.off, layer).tolist() == CORNERS
        limit = outliers.limits[layer]
        assert limit is not None
        assert limit.found == "gap"
        assert 2.3 < limit.value < 9  # ordinary tokens reach 2.3 medians, planted ones start at 9
    np.testing.assert_array_equal(outliers.off.ratios, 4 / 64)


def test_the_models_own_sites_take_effect_where_they_stand(outliers: DenoiserDiagnosis) -> None:
    own = outliers.run("own")
    assert own is not None
    assert own.sites == (3, 5)
    np.testing.assert_array_equal(own.ratios[:3], 4 / 64)
    np.testing.assert_array_equal(own.ratios[3:], 0)
    rows = 2 * SHORT.images * SHORT.steps  # guidance walks each image twice
    assert own.measured.replaced == {3: 4 * rows, 5: 0}


def test_the_proposal_leaves_none_and_holds_only_sites_that_did_something(outliers: DenoiserDiagnosis) -> None:
    proposed = outliers.run("proposed")
    assert proposed is not None
    assert not proposed.ratios.any()
    assert [group.layers for group in outliers.replace] == [(0,)]
    assert proposed.measured.replaced[0] == proposed.measured.tokens * 4 // 64
    assert outliers.outlier_patches(proposed, 0).tolist() == []


def test_attention_sees_the_registers_and_adds_up(outliers: DenoiserDiagnosis) -> None:
    for layer, mean in enumerate(outliers.off.measured.attention.means):
        assert mean is not None
        assert len(mean) == (64 if layer < 2 else 68)
        assert mean.mean() == pytest.approx(1, abs=1e-5)
    first = outliers.off.measured.attention.means[0]
    assert first is not None
    assert first[CORNERS].mean() > 3  # outliers draw attention
    assert np.delete(first, CORNERS).mean() < 1


def test_the_model_is_left_as_it_was() -> None:
    subject = load_subject("digits-outliers")
    inputs = [torch.from_numpy(value) for value in subject.example(2, seed=0).values()]
    before, threads = subject.module(*inputs), torch.get_num_threads()
    assert isinstance(subject.module, RaeDit)
    sites = dict(subject.module.replacements.items())
    diagnosed(subject)
    assert dict(subject.module.replacements.items()) == sites
    assert torch.equal(subject.module(*inputs), before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in subject.module.modules())
    assert torch.get_num_threads() == threads


def test_the_same_seed_gives_the_same_record(outliers: DenoiserDiagnosis) -> None:
    def record(found: DenoiserDiagnosis) -> object:
        return denoiser_record(found, denoiser_verdict(found, ("digits-outliers",), Path("dsr.toml")))

    assert record(diagnosed(load_subject("digits-outliers"))) == record(outliers)
    other = diagnosed(load_subject("digits-outliers"), WalkSettings(images=2, steps=3, seed=1))
    assert record(other) != record(outliers)


def test_a_model_without_outliers_is_told_so() -> None:
    found = diagnosed(load_subject("digits"))
    assert found.outlier_layers == []
    assert found.replace == ()
    assert [run.name for run in found.runs] == ["off", "own"]
    verdict = denoiser_verdict(found, ("digits",), Path("d"))
    assert verdict.tone == "good"
    assert verdict.command == "dsr-export build digits"


def test_a_model_without_registers_clips() -> None:
    limit = Limit(edge=300, value=4.5, found="gap", share=0.1)
    groups = propose([None, limit, limit], registers=0)
    assert [(group.layers, group.choice, group.threshold) for group in groups] == [
        ((1,), "clip", 4.5),
        ((2,), "clip", 4.5),
    ]
    assert {group.choice for group in propose([limit], registers=4)} == {"nearest"}


def test_a_site_that_serves_several_layers_is_told_apart() -> None:
    subject = load_subject("digits-outliers", replace=[])
    assert isinstance(subject.module, RaeDit)
    subject.module.replace_at([1, 6], RecursiveReplacement(rule="median", threshold=4.0))
    model, seen = DenoiserTokens(subject.module), []
    with model.own_sites(), model.watching_sites(lambda layer, which: seen.append((layer, int(which.sum())))):
        subject.module(*[torch.from_numpy(value) for value in subject.example(1, seed=0).values()])
    assert seen == [(1, 4), (6, 0)]


def test_broken_tokens_are_counted_and_end_in_a_verdict() -> None:
    subject = load_subject(
        "rae-dit", random_weights=0, input_size=4, in_channels=4, hidden_size=16, depth=2, num_heads=2
    )
    assert isinstance(subject.module, RaeDit)
    subject.module.pos_embed.data[0, 5] = torch.inf
    found = diagnosed(subject, WalkSettings(images=1, steps=2))
    record = denoiser_record(found, denoiser_verdict(found, ("rae-dit",), Path("d")))
    assert record["layers"][0]["non_finite"] > 0
    assert record["layers"][0]["largest"] is None
    assert record["verdict"]["tone"] != "good"


def test_sites_of_another_spec_are_only_there_while_asked_for() -> None:
    subject = load_subject("digits")
    assert isinstance(subject.module, RaeDit)
    model = DenoiserTokens(subject.module)
    own = sorted(subject.module.replacements)
    with model.sites([ReplaceSpec(layers=(1,), rule="absolute", threshold=9.0, choice="mask")]):
        assert sorted(subject.module.replacements) == ["1"]
    assert sorted(subject.module.replacements) == own == ["2", "4"]


def test_learned_sinks_are_no_tokens() -> None:
    subject = load_subject(
        "rae-dit",
        random_weights=0,
        input_size=4,
        in_channels=4,
        hidden_size=16,
        depth=2,
        num_heads=2,
        attn_with_bias=True,
    )
    mean = diagnosed(subject, WalkSettings(images=1, steps=2)).off.measured.attention.means[0]
    assert mean is not None
    assert len(mean) == 16
    assert 0 < 17 - mean.sum() < 17  # 17 keys share 17; what is missing went to the sink


def test_few_steps_reach_low_noise_and_all_steps_are_the_samplers_own() -> None:
    subject = load_subject("rae-dit", random_weights=0, hidden_size=16, depth=1, num_heads=2)  # 768 channels: shifted
    assert subject.sampler is not None
    few = shortened(subject, WalkSettings(steps=10)).grid
    np.testing.assert_allclose(few[:-1], np.linspace(1, 0.1, 10), atol=1e-6)
    np.testing.assert_array_equal(shortened(subject, WalkSettings(steps=49)).grid, subject.sampler.grid)
