"""Recursive discovery on the encoders of `transformers`, with one planted register neuron."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dsr_export.declarations.dsr_file import read_dsr_file
from dsr_export.diagnosis.declaration import encoder_toml, neurons_json
from dsr_export.diagnosis.encoder import DEFAULTS, EncoderDiagnosis, diagnose_encoder, settings_for
from dsr_export.diagnosis.models.encoder import EncoderTokens
from dsr_export.diagnosis.models.tokens import FoundBlocks
from dsr_export.diagnosis.pages.encoder import best_of, encoder_page
from dsr_export.diagnosis.record import encoder_record
from dsr_export.diagnosis.verdicts import encoder_verdict
from dsr_export.errors import ExportError
from dsr_export.families import load_subject
from dsr_export.families.encoders.vision_encoder import VisionEncoder
from dsr_export.images.reading import Images, open_images
from dsr_export.progress import Silent
from dsr_export.subject import Subject
from tests.diagnosis.planted_vit import PlantedVit

LAYER, NEURON, PLACES = 1, 7, (6, 9)
SIZES = {"image_size": 32, "patch_size": 8, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}


def planted(family: str, *, dsr: Path | None = None) -> Subject:
    """Two patch positions carry a direction that one neuron turns into a huge norm."""
    pytest.importorskip("transformers", reason="the models extra is not installed")
    sizes = {**SIZES, **({"intermediate_size": 96} if family == "siglip" else {"mlp_ratio": 2})}
    subject = load_subject(family, random_weights=0, dsr=dsr, **sizes)
    assert isinstance(subject.module, VisionEncoder)
    encoder = subject.module
    direction = torch.zeros(encoder.channels)
    direction[0], direction[1] = 1.0, -1.0
    for place in PLACES:
        encoder.position.data[0, place] += 30 * direction
    mlp = encoder.layers[LAYER].get_submodule("mlp")
    fc1, fc2 = mlp.get_submodule("fc1"), mlp.get_submodule("fc2")
    fc1.weight.data[NEURON], fc1.bias.data[NEURON] = 8 * direction, -32.0
    fc2.weight.data[:, NEURON] = 20 * torch.randn(encoder.channels, generator=torch.Generator().manual_seed(1))
    return subject


@pytest.fixture
def images(tmp_path: Path) -> Images:
    np.savez(tmp_path / "images.npz", image=np.random.default_rng(0).standard_normal((4, 3, 32, 32)).astype(np.float32))
    return open_images(tmp_path / "images.npz", (3, 32, 32), "siglip")


def diagnosed(subject: Subject, images: Images, *, rounds: int = 1, threshold: float = 500.0) -> EncoderDiagnosis:
    assert isinstance(subject.module, VisionEncoder)
    settings = settings_for(subject.family, detect_layer=-1, threshold=threshold, top_k=1, rounds=rounds)
    return diagnose_encoder(subject, EncoderTokens(subject.module), images, settings, Silent())


@pytest.mark.parametrize("family", ["siglip", "dinov2", "dinov2-with-registers"])
def test_the_planted_neuron_is_found_and_moving_it_removes_the_outliers(family: str, images: Images) -> None:
    found = diagnosed(planted(family), images, rounds=2)
    assert found.table == {LAYER: (NEURON,)}
    assert found.before.outliers == 2 * 4
    assert np.flatnonzero(found.before.stats.peaks[-1, 0] > 500).tolist() == list(PLACES)
    assert found.after is not None
    assert found.after.outliers == 0
    assert [len(each.neurons) for each in found.rounds] == [1, 0]  # the second round finds nothing more


def test_a_second_round_finds_what_the_first_left(images: Images) -> None:
    subject = planted("siglip")
    assert isinstance(subject.module, VisionEncoder)
    mlp = subject.module.layers[LAYER].get_submodule("mlp")
    fc1, fc2 = mlp.get_submodule("fc1"), mlp.get_submodule("fc2")
    fc1.weight.data[NEURON + 1], fc1.bias.data[NEURON + 1] = fc1.weight[NEURON] * 0.8, fc1.bias[NEURON] * 0.8
    fc2.weight.data[:, NEURON + 1] = fc2.weight[:, NEURON]
    once, twice = diagnosed(subject, images, rounds=1), diagnosed(subject, images, rounds=2)
    assert once.table == {LAYER: (NEURON,)}
    assert once.after is not None
    assert once.after.outliers > 0
    assert twice.table == {LAYER: (NEURON, NEURON + 1)}
    assert twice.after is not None
    assert twice.after.outliers == 0
    assert [number for number, _ in best_of(twice)] == [1, 2]


def test_the_encoder_is_left_as_it_was(images: Images) -> None:
    subject = planted("siglip")
    image = torch.from_numpy(next(iter(images)))
    before = subject.module(image)
    diagnosed(subject, images, rounds=2)
    assert torch.equal(subject.module(image), before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in subject.module.modules())


def test_what_discovery_measured_is_what_a_declared_encoder_does(images: Images, tmp_path: Path) -> None:
    """The written files, read back by `--dsr`, give the tokens that the last pass saw."""
    found = diagnosed(planted("siglip"), images)
    (tmp_path / "neurons.json").write_text(neurons_json(found.table))
    toml = encoder_toml(found, tmp_path / "neurons.json", tmp_path)
    assert toml is not None
    (tmp_path / "dsr.toml").write_text(toml)
    spec = read_dsr_file(tmp_path / "dsr.toml").spec.encoder
    assert (spec.kind, spec.registers, dict(spec.neurons)) == ("test-time", 1, {LAYER: (NEURON,)})
    declared, image = planted("siglip", dsr=tmp_path / "dsr.toml"), torch.from_numpy(next(iter(images)))
    bare = planted("siglip")
    assert isinstance(bare.module, VisionEncoder)
    with EncoderTokens(bare.module).with_neurons(found.table):
        torch.testing.assert_close(bare.module(image), declared.module(image))


def test_declared_registers_are_off_during_discovery_and_back_after(images: Images, tmp_path: Path) -> None:
    (tmp_path / "neurons.json").write_text(f'{{"{LAYER}": [{NEURON}]}}')
    (tmp_path / "dsr.toml").write_text('[encoder]\nkind = "test-time"\nneurons = "neurons.json"\n')
    subject, image = planted("siglip", dsr=tmp_path / "dsr.toml"), torch.from_numpy(next(iter(images)))
    before = subject.module(image)
    found = diagnosed(subject, images)
    assert found.table == {LAYER: (NEURON,)}
    assert torch.equal(subject.module(image), before)
    assert found.declared is not None and found.declared.outliers == 0 < found.before.outliers


def test_appended_registers_are_judged_beside_test_time_ones(images: Images, tmp_path: Path) -> None:
    """Rows of zeros and no neurons change too little to remove an outlier."""
    width = planted("siglip").module.channels
    save_file({"registers": torch.zeros(2, width)}, tmp_path / "r.safetensors")
    (tmp_path / "dsr.toml").write_text('[encoder]\nkind = "appended"\nregister_file = "r.safetensors"\n')
    subject, image = planted("siglip", dsr=tmp_path / "dsr.toml"), torch.from_numpy(next(iter(images)))
    before = subject.module(image)
    found = diagnosed(subject, images)
    assert torch.equal(subject.module(image), before)
    assert found.declared is not None and found.declared.outliers == found.before.outliers > 0
    verdict = encoder_verdict(found, ("siglip",), Path("d"), stabilises=True)
    assert any("declared registers" in detail for detail in verdict.details)
    assert "with the declared registers" in encoder_page(found, verdict)
    assert encoder_record(found, verdict)["declared"]["outliers"] == found.before.outliers


def test_without_outliers_there_is_nothing_to_declare(images: Images) -> None:
    found = diagnosed(planted("siglip"), images, threshold=1e6)
    assert found.table == {}
    assert found.after is None
    assert encoder_toml(found, Path("n.json"), Path()) is None
    verdict = encoder_verdict(found, ("siglip",), Path("d"), stabilises=True)
    assert verdict.tone == "good"
    assert "No outlier tokens" in encoder_page(found, verdict)


def test_the_record_counts_before_and_after(images: Images) -> None:
    found = diagnosed(planted("siglip"), images)
    record = encoder_record(found, encoder_verdict(found, ("siglip",), Path("d"), stabilises=True))
    assert record["layers"][LAYER] == {**record["layers"][LAYER], "ratio": 0.125, "ratio_after": 0.0}
    assert record["layers"][0]["ratio"] == 0.0
    assert record["after"] == {"images_with_outliers": 0, "outliers": 0}


def test_any_module_can_be_looked_at_but_not_repaired(images: Images) -> None:
    subject = planted("siglip")
    settings = settings_for("callable", threshold=500.0, highest_layer=3, rounds=2)
    with pytest.raises(ExportError, match="can't be put into this module") as refused:
        diagnose_encoder(subject, FoundBlocks(subject.module), images, settings, Silent())
    assert refused.value.hint == "use --rounds 1"
    assert FoundBlocks(PlantedVit()).patch_rows(17) == slice(1, 17)


def test_families_have_the_settings_that_were_published() -> None:
    clip, dino = DEFAULTS["siglip"], DEFAULTS["dinov2"]
    assert (clip.detect_layer, clip.threshold, clip.highest_layer, clip.top_k) == (-1, 30, 5, 10)
    assert (dino.detect_layer, dino.threshold, dino.highest_layer, dino.top_k) == (-2, 150, 17, 50)
    assert settings_for("dinov2", top_k=3).top_k == 3
    with pytest.raises(ExportError, match="nothing is known"):
        settings_for("callable", threshold=3.0)
