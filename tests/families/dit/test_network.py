"""`Dit` against an independent forward and diffusers' own, and the facts that checkpoints rely on."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dsr_export.errors import ExportError
from dsr_export.families import load_subject, models
from dsr_export.families.dit.from_diffusers import dit_from_diffusers
from dsr_export.families.dit.models import DIT, SIT
from dsr_export.families.dit.network import Dit, DitConfig
from dsr_export.families.network_parts.randomise import drawn, without_memory
from dsr_export.families.schema import resolve
from dsr_export.spec import DenoiserSpec, ReplaceSpec
from tests.families import dit_oracle as oracle
from tests.families.tiny_sizes import REQUIRED, SIZES

REGISTERS: dict[str, Any] = {"register_conditioning": True, "register_len": 5, "register_start": 1}
VARIANTS: dict[str, dict[str, Any]] = {
    "released": {},
    "registers": REGISTERS,
    "registers from block 0": {**REGISTERS, "register_start": 0},
    "no learned sigma": {"learn_sigma": False},
    "no null label": {"class_dropout_prob": 0.0},
    "patch 4": {"patch_size": 4},
    "mlp ratio": {"mlp_ratio": 3.0},
}


def _inputs(batch: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 3, 4, 4, generator=generator)
    return x, torch.tensor([999.0, 417.0, 0.0])[:batch], torch.arange(batch)


@pytest.mark.parametrize("variant", VARIANTS)
def test_forward_matches_an_independent_implementation(variant: str) -> None:
    config = DitConfig(**{**SIZES, **VARIANTS[variant]})
    module = drawn(Dit, config, 0)
    x, t, y = _inputs()
    weights = {name: value.double().numpy() for name, value in module.state_dict().items()}
    with torch.no_grad():
        found = module(x, t, y).numpy()
    assert found.shape == (3, 6 if config.learn_sigma else 3, 4, 4)
    np.testing.assert_allclose(found, oracle.forward(weights, config, x.numpy(), t.numpy(), y.numpy()), atol=2e-4)


def test_a_released_size_has_the_released_names_and_shapes() -> None:
    module = without_memory(Dit, resolve(DIT.schema, DIT.sizes["dit-xl-2"]))
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    block = {
        "attn.qkv": (3456, 1152),
        "attn.proj": (1152, 1152),
        "mlp.fc1": (4608, 1152),
        "mlp.fc2": (1152, 4608),
        "adaLN_modulation.1": (6912, 1152),
    }
    linear = {
        "x_embedder.proj": (1152, 4, 2, 2),
        "t_embedder.mlp.0": (1152, 256),
        "t_embedder.mlp.2": (1152, 1152),
        "final_layer.linear": (32, 1152),
        "final_layer.adaLN_modulation.1": (2304, 1152),
        **{f"blocks.{i}.{name}": shape for i in range(28) for name, shape in block.items()},
    }
    expected = {"pos_embed": (1, 256, 1152), "y_embedder.embedding_table.weight": (1001, 1152)}
    for name, shape in linear.items():
        expected |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    assert shapes == expected


@pytest.mark.parametrize("family", [DIT, SIT], ids=lambda family: family.name)
def test_registered_models_have_their_sizes_and_parameter_counts(family: Any) -> None:
    counts = {model.name: model.parameters for model in models() if model.family == family.name}
    assert counts.keys() == family.sizes.keys() and len(counts) == 12
    for name, size in family.sizes.items():
        module = without_memory(family.module, resolve(family.schema, size))
        assert sum(weight.numel() for weight in module.parameters()) == counts[name]
        assert f"-{module.config.patch_size}" == name[-2:]


@pytest.mark.parametrize(("depth", "hidden"), [(1, 32), (28, 64)])
def test_random_outputs_are_of_order_one_and_read_everything(depth: int, hidden: int) -> None:
    module = drawn(
        Dit, DitConfig(**{**SIZES, **REGISTERS, "depth": depth, "hidden_size": hidden, "register_start": 0}), 3
    )
    x, t, y = _inputs()
    out = module(x, t, y)
    assert out.isfinite().all() and 0.3 < out.std() < 3
    for changed in ((x + 0.5, t, y), (x, t + 30, y), (x, t, y + 1)):
        assert (module(*changed) - out).abs().mean() > 1e-2


def test_every_weight_matters() -> None:
    module = drawn(Dit, DitConfig(**{**SIZES, **REGISTERS}), 3)
    module(*_inputs()).square().sum().backward()
    trained = {name: weight.grad for name, weight in module.named_parameters() if weight.requires_grad}
    assert [name for name, grad in trained.items() if grad is None or not grad.abs().max() > 1e-6] == []


class TestSubject:
    def test_it_gives_all_that_the_model_predicts_at_whole_steps(self) -> None:
        subject = load_subject("dit", random_weights=0, **SIZES)
        assert subject.outputs[0].shape == ("batch", 6, 4, 4) and subject.inputs[0].shape == ("batch", 3, 4, 4)
        t = subject.example(64, seed=0)["t"]
        assert t.dtype == np.float32 and np.array_equal(t, np.rint(t)) and t.min() >= 0 and 900 < t.max() <= 999
        assert subject.sampler is not None and subject.sampler.null_label == 5
        assert (subject.sampler.prediction, subject.sampler.path) == ("epsilon", "ddpm")

    def test_registers_are_asked_for(self) -> None:
        assert load_subject("dit", random_weights=0, **SIZES).dsr.denoiser == DenoiserSpec()
        subject = load_subject("dit", random_weights=0, registers=4, **SIZES, register_start=2)
        assert subject.dsr.denoiser == DenoiserSpec(kind="diffusion", registers=4, start=2)
        same = load_subject("dit", random_weights=0, **SIZES, register_len=4, register_start=2)
        assert same.dsr == subject.dsr

    def test_replacement_draws_on_the_registers(self) -> None:
        group = ReplaceSpec(layers=(0, 2), rule="median", threshold=1.1, rounds=2)
        subject = load_subject("dit", random_weights=0, registers=4, replace=[group], **SIZES, register_start=1)
        plain = load_subject("dit", random_weights=0, registers=4, **SIZES, register_start=1)
        assert {name: list(site.exclude) for name, site in subject.module.replacements.items()} == {  # type: ignore[operator, union-attr]
            "0": [],
            "2": [0, 1, 2, 3],
        }
        assert (subject.module(*_inputs()) - plain.module(*_inputs())).abs().max() > 1e-2

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"patch_sise": 2}, "patch_sise"),
            ({"hidden_size": 30}, "not divisible by num_heads"),
            ({"hidden_size": 6, "num_heads": 3}, "not divisible by 4"),
            ({"patch_size": 3}, "does not divide"),
            ({"class_dropout_prob": 1.0}, "class_dropout_prob"),
            ({"registers": 2, "register_start": 3}, "outside"),
            ({"registers": -1}, "negative"),
            ({"mlp_ratio": 0.0}, "mlp_ratio"),
        ],
    )
    def test_options_that_cannot_be_built_are_refused(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ExportError, match=message):
            load_subject("dit", random_weights=0, **{**SIZES, **options})


class TestCheckpoints:
    @pytest.mark.parametrize("variant", ["released", "registers", "no learned sigma"])
    def test_sizes_are_read_off_the_weights(self, tmp_path: Path, variant: str) -> None:
        config = DitConfig(**{**SIZES, **VARIANTS[variant]})
        module = drawn(Dit, config, 0)
        torch.save({"model": {}, "ema": module.state_dict(), "args": argparse.Namespace(lr=1)}, tmp_path / "a.pt")
        start = {"register_start": config.register_start}
        subject = load_subject("dit", checkpoint=tmp_path / "a.pt", **REQUIRED, **start)
        assert subject.config == dataclasses.asdict(config)
        assert torch.equal(subject.module(*_inputs()), module(*_inputs()))

    def test_another_size_is_named(self, tmp_path: Path) -> None:
        state = {"pos_embed": torch.zeros(1, 64, 768), "x_embedder.proj.weight": torch.zeros(768, 4, 4, 4)}
        save_file({**state, **{f"blocks.{i}.a": torch.zeros(1) for i in range(12)}}, tmp_path / "a.safetensors")
        with pytest.raises(ExportError, match="hidden size 768, patch size 4 and 12 blocks, 'dit-b-2'") as caught:
            load_subject("dit-b-2", checkpoint=tmp_path / "a.safetensors")
        assert caught.value.hint == "use dit-b-4"

    def test_trained_registers_need_a_start(self, tmp_path: Path) -> None:
        save_file(drawn(Dit, DitConfig(**{**SIZES, **REGISTERS}), 0).state_dict(), tmp_path / "a.safetensors")
        with pytest.raises(ExportError, match="registers"):
            load_subject("dit", checkpoint=tmp_path / "a.safetensors", **REQUIRED)


class TestDiffusers:
    @pytest.fixture
    def transformer(self) -> Any:
        diffusers = pytest.importorskip("diffusers", reason="the models extra is not installed")
        torch.manual_seed(0)
        made = diffusers.DiTTransformer2DModel(
            num_attention_heads=4,
            attention_head_dim=8,
            in_channels=3,
            out_channels=6,
            num_layers=3,
            sample_size=8,
            patch_size=2,
            num_embeds_ada_norm=5,
            norm_eps=1e-6,
        ).eval()
        for block in made.transformer_blocks:
            block.norm1.emb = made.transformer_blocks[0].norm1.emb  # as in converted weights
        return made

    def _inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        return torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1)), *_inputs()[1:]

    def test_the_same_weights_give_the_same_output(self, transformer: Any, tmp_path: Path) -> None:
        torch.save(transformer.state_dict(), tmp_path / "a.bin")
        options = {"hidden_size": 32, "depth": 3, "num_heads": 4, "input_size": 8, "num_classes": 5}
        module = load_subject("dit", checkpoint=tmp_path / "a.bin", **options).module
        x, t, y = self._inputs()
        with torch.no_grad():
            shipped = transformer(x, timestep=t, class_labels=y).sample
            transformer.transformer_blocks[0].norm1.emb.time_proj.downscale_freq_shift = 0  # as the released DiT
            found, expected = module(x, t, y), transformer(x, timestep=t, class_labels=y).sample
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        assert (shipped - expected).abs().max() > 1e-3

    def test_embeddings_that_differ_from_block_to_block_are_refused(self, transformer: Any) -> None:
        state = {name: value.clone() for name, value in transformer.state_dict().items()}
        state["transformer_blocks.2.norm1.emb.timestep_embedder.linear_1.bias"] += 1
        with pytest.raises(ExportError, match=r"block 2 has its own 'timestep_embedder.linear_1.bias'"):
            dit_from_diffusers(state, 8)

    def test_missing_tensors_are_named(self, transformer: Any) -> None:
        state = dict(transformer.state_dict())
        del state["transformer_blocks.1.ff.net.2.bias"]
        with pytest.raises(ExportError, match=r"lacks 'transformer_blocks.1.ff.net.2.bias'"):
            dit_from_diffusers(state, 8)
