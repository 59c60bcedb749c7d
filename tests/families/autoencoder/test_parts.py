"""`AutoencoderRAE` folders: encoder and decoder against diffusers' own `encode` and `decode`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dsr_export.config import ModelRequest
from dsr_export.errors import ExportError
from dsr_export.sources import find_source, load_subject
from tests.families.encoders.hooked import layer_tokens

diffusers = pytest.importorskip("diffusers", reason="the models extra is not installed")
transformers = pytest.importorskip("transformers", reason="the models extra is not installed")
if not hasattr(diffusers, "AutoencoderRAE"):
    pytest.skip("this diffusers has no AutoencoderRAE", allow_module_level=True)

SIZES: dict[str, Any] = {
    "encoder_hidden_size": 64,
    "encoder_patch_size": 4,
    "encoder_num_hidden_layers": 2,
    "decoder_hidden_size": 32,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 4,
    "decoder_intermediate_size": 48,
    "patch_size": 2,
    "encoder_input_size": 16,
}
FILE = "diffusion_pytorch_model.safetensors"


@pytest.fixture(autouse=True)
def _towers(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers asks SigLIP for a tower inside it, which transformers 5 has no more."""
    if not hasattr(transformers.SiglipVisionModel, "vision_model"):
        itself = property(lambda model: model)
        monkeypatch.setattr(transformers.SiglipVisionModel, "vision_model", itself, raising=False)


@torch.no_grad()
def _saved(folder: Path, **options: Any) -> Any:
    """An autoencoder with lively weights, and its folder."""
    statistics = {"latents_mean": torch.randn(64, 1, 1).tolist(), "latents_std": (torch.rand(64, 4, 4) + 0.5).tolist()}
    model = diffusers.AutoencoderRAE(**{**SIZES, **statistics, **options}).eval()
    generator = torch.Generator().manual_seed(1)
    for weight in model.parameters():
        spread = (weight.numel() // weight.shape[0]) ** -0.5 if weight.ndim > 1 else 0.3
        weight.normal_(float(weight.ndim == 1), spread, generator=generator)
    model.save_pretrained(folder)
    return model


def _part(folder: Path, part: str, **options: Any) -> Any:
    return load_subject(model_dir=folder, part=part, **options)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("dinov2", {"scaling_factor": 0.5}),
        ("siglip2", {"encoder_norm_mean": [0.5, 0.5, 0.5], "encoder_norm_std": [0.5, 0.4, 0.3]}),
        ("mae", {"reshape_to_2d": False, "latents_mean": None, "latents_std": None, "patch_size": 3}),
    ],
)
def test_both_parts_are_what_diffusers_computes(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    model = _saved(tmp_path / "rae", encoder_type=kind, **options)
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        latent = model.encode(image).latent
        decoded = model.decode(latent).sample
    encoder, decoder = _part(tmp_path / "rae", "encoder"), _part(tmp_path / "rae", "decoder")
    assert encoder.outputs[0].with_batch(2) == decoder.inputs[0].with_batch(2) == tuple(latent.shape)
    assert decoder.outputs[0].with_batch(2) == tuple(decoded.shape)
    torch.testing.assert_close(encoder.module(image), latent, rtol=0, atol=1e-4)
    torch.testing.assert_close(decoder.module(latent), decoded, rtol=0, atol=1e-4)


def test_an_encoder_takes_test_time_registers(tmp_path: Path) -> None:
    model = _saved(tmp_path / "rae", latents_mean=None, latents_std=None)
    (tmp_path / "n.json").write_text('{"1": [5, 7]}')
    (tmp_path / "dsr.toml").write_text('[encoder]\nkind = "test-time"\nneurons = "n.json"\n')
    encoder = _part(tmp_path / "rae", "encoder", dsr=tmp_path / "dsr.toml")
    image = torch.rand(2, 3, 16, 16)
    inner = model.encoder
    tokens = layer_tokens(
        inner,
        {"pixel_values": (image - model.encoder_mean) / model.encoder_std},
        layers=inner.encoder.layer if hasattr(inner.encoder, "layer") else inner.encoder.layers,
        embeddings=inner.embeddings,
        neurons={1: (5, 7)},
    )[-1]
    expected = torch.nn.functional.layer_norm(tokens[:, 5:], (64,), eps=1e-6).transpose(1, 2).unflatten(2, (4, 4))
    torch.testing.assert_close(encoder.module(image), expected / (1 + 1e-5), rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rae")
    _saved(folder)
    return folder


class TestFolders:
    @pytest.fixture
    def folder(self, saved: Path, tmp_path: Path) -> Path:
        return shutil.copytree(saved, tmp_path / "rae")

    def test_names_of_older_transformers_are_read(self, folder: Path) -> None:
        before = _part(folder, "encoder").module(torch.ones(1, 3, 16, 16))
        state = load_file(folder / FILE)
        old = {re_old(name): tensor for name, tensor in state.items()}
        assert old.keys() != state.keys()
        save_file(old, folder / FILE)
        assert torch.equal(_part(folder, "encoder").module(torch.ones(1, 3, 16, 16)), before)

    def test_a_pipeline_gives_the_parts_of_its_vae(self, folder: Path, tmp_path: Path) -> None:
        shutil.move(folder, tmp_path / "pipeline" / "vae")
        source = find_source(ModelRequest(model_dir=tmp_path / "pipeline", options={"part": "decoder"}))
        assert source.name == "pipeline-decoder"
        assert source.load().inputs[0].name == "z"

    @pytest.mark.parametrize(
        ("options", "message"),
        [({}, "an autoencoder is two models"), ({"part": "middle"}, "no part 'middle'"), ({"parts": 1}, "no option")],
    )
    def test_a_part_has_to_be_named(self, folder: Path, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ExportError, match=message) as caught:
            load_subject(model_dir=folder, **options)
        assert "part" in str(caught.value.hint)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"encoder_type": "clip"}, "encoder_type 'clip' is none of"),
            ({"encoder_hidden_size": 65}, "no multiple of 64"),
            ({"encoder_input_size": 17}, "does not divide"),
            ({"image_size": 99}, "image_size 99 is not 8"),
            ({"scaling_factor": 0}, "scaling_factor is 0"),
            ({"sise": 1}, "has no argument 'sise'"),
            ({"decoder_hidden_size": 64}, "shape|does not fit"),
            ({"encoder_num_hidden_layers": 3}, "lacks 1|lacks"),
            ({"encoder_num_hidden_layers": 1}, "has no weight"),
        ],
    )
    def test_a_config_that_does_not_fit(self, folder: Path, change: dict[str, Any], message: str) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **change}))
        part = "decoder" if "decoder_hidden_size" in change else "encoder"
        with pytest.raises(ExportError, match=message):
            _part(folder, part)

    def test_a_file_of_half_the_model_is_refused(self, folder: Path) -> None:
        state = {name: value for name, value in load_file(folder / FILE).items() if not name.startswith("encoder.")}
        save_file(state, folder / FILE)
        with pytest.raises(ExportError, match="hold no encoder"):
            _part(folder, "decoder")

    def test_random_weights_are_asked_for(self, folder: Path) -> None:
        (folder / FILE).unlink()
        with pytest.raises(ExportError, match="holds no weights"):
            _part(folder, "decoder")
        (folder / "x.gguf").write_bytes(b"GGUF")
        with pytest.raises(ExportError, match="a GGUF file"):
            _part(folder, "decoder")
        for part in ("encoder", "decoder"):
            first, second = (_part(folder, part, random_weights=0) for _ in range(2))
            pairs = zip(first.module.parameters(), second.module.parameters(), strict=True)
            assert all(torch.equal(one, other) for one, other in pairs)


def re_old(name: str) -> str:
    """As transformers 4 called the parts of DINOv2's layers."""
    pairs = {
        "encoder.layers.": "encoder.layer.",
        "attention.q_proj": "attention.attention.query",
        "attention.k_proj": "attention.attention.key",
        "attention.v_proj": "attention.attention.value",
        "attention.o_proj": "attention.output.dense",
    }
    if name.startswith("encoder."):
        for new, old in pairs.items():
            name = name.replace(new, old)
    return name
