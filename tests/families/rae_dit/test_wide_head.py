"""`RaeDitDh` against an independent numpy forward, the facts that checkpoints rely on, and its registered sizes."""

from __future__ import annotations

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
from dsr_export.families.network_parts.randomise import drawn, without_memory
from dsr_export.families.rae_dit.wide_head import RaeDitDh, RaeDitDhConfig
from dsr_export.families.rae_dit.wide_head_models import FAMILY, SIZES
from dsr_export.families.schema import resolve
from dsr_export.spec import ReplaceSpec
from tests.families import rae_dit_dh_oracle as oracle

TINY = RaeDitDhConfig(
    input_size=3,
    in_channels=5,
    hidden_size=(32, 48),
    depth=(3, 2),
    num_heads=(4, 2),
    num_classes=5,
    register_conditioning=True,
    register_len=4,
    register_start=1,
)
SIZED: dict[str, Any] = {name: getattr(TINY, name) for name in ("input_size", "in_channels", "num_classes")}
SHAPED: dict[str, Any] = {name: getattr(TINY, name) for name in ("hidden_size", "depth", "num_heads")}
NO_REGISTERS = {"register_conditioning": False, "register_len": 0, "register_start": 0}
VARIANTS: dict[str, dict[str, Any]] = {
    "registers": {},
    "registers from block 0": {"register_start": 0},
    "registers before the trunk's last block": {"register_start": 2},
    "no registers": NO_REGISTERS,
    "five registers": {"register_len": 5},
    "qk norm": {"use_qknorm": True},
    "plain mlp": {"use_swiglu": False},
    "layer norm": {"use_rmsnorm": False},
    "no positions": {"use_pos_embed": False},
    "head as wide as the trunk": {"hidden_size": (32, 32)},
    "mlp ratio": {"mlp_ratio": 3.0},
}


def _inputs(batch: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(batch, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    return x, torch.linspace(0.1, 1.0, batch), torch.arange(batch) % 6


@pytest.mark.parametrize("variant", VARIANTS)
def test_forward_matches_an_independent_implementation(variant: str) -> None:
    config = dataclasses.replace(TINY, **VARIANTS[variant])
    module, inputs = drawn(RaeDitDh, config, 0), _inputs()
    weights = {name: value.double().numpy() for name, value in module.state_dict().items()}
    with torch.no_grad():
        found = module(*inputs).numpy()
    np.testing.assert_allclose(found, oracle.forward(weights, config, *(part.numpy() for part in inputs)), atol=2e-4)


def test_state_dict_has_the_released_names_and_shapes() -> None:
    config = resolve(FAMILY.schema, SIZES["rae-dit-dh-xl"])
    shapes = {name: tuple(value.shape) for name, value in without_memory(RaeDitDh, config).state_dict().items()}
    stem = {
        "pos_embed": (1, 256, 1152),
        "enc_register_tokens": (1, 36, 1152),
        "dec_register_tokens": (1, 36, 2048),
        "enc_register_pos_embed": (1, 36, 1152),
        "dec_register_pos_embed": (1, 36, 2048),
        "x_embedder.proj.weight": (2048, 768, 1, 1),
        "x_embedder.proj.bias": (2048,),
        "s_embedder.proj.weight": (1152, 768, 1, 1),
        "s_embedder.proj.bias": (1152,),
        "s_projector.weight": (2048, 1152),
        "s_projector.bias": (2048,),
        "t_embedder.W": (256,),
        "t_embedder.mlp.0.weight": (1152, 512),
        "t_embedder.mlp.0.bias": (1152,),
        "t_embedder.mlp.2.weight": (1152, 1152),
        "t_embedder.mlp.2.bias": (1152,),
        "y_embedder.embedding_table.weight": (1001, 1152),
        "final_layer.norm_final.weight": (2048,),
        "final_layer.linear.weight": (768, 2048),
        "final_layer.linear.bias": (768,),
        "final_layer.adaLN_modulation.1.weight": (4096, 2048),
        "final_layer.adaLN_modulation.1.bias": (4096,),
    }
    for stack, head in (("enc", 72), ("dec", 128)):
        for part in ("cos", "sin"):
            stem[f"{stack}_feat_rope.freqs_{part}"] = (256, head)
            stem[f"{stack}_feat_rope_incontext.freqs_{part}"] = (292, head)
    blocks = {key: shape for key, shape in shapes.items() if key.startswith("blocks.")}
    assert {key: shape for key, shape in shapes.items() if key not in blocks} == stem
    assert {key.split(".")[1] for key in blocks} == {str(i) for i in range(30)}
    assert blocks["blocks.27.mlp.w3.weight"] == (1152, 3072) and blocks["blocks.28.mlp.w3.weight"] == (2048, 5461)
    assert blocks["blocks.29.adaLN_modulation.1.weight"] == (6 * 2048, 2048)


def test_both_streams_carry_registers_and_drop_them_before_the_final_layer() -> None:
    module, seen = drawn(RaeDitDh, TINY, 0), []
    for watched in (*module.blocks, module.final_layer):
        watched.register_forward_pre_hook(lambda _, inputs: seen.append((inputs[0].shape[1], inputs[1].shape[1:])))
    module(*_inputs())
    assert seen == [(9, (32,)), (13, (32,)), (13, (32,)), (13, (13, 48)), (13, (13, 48)), (9, (9, 48))]


def test_every_weight_matters() -> None:
    module = drawn(RaeDitDh, TINY, 3)
    module(*_inputs()).square().sum().backward()
    trained = {name: weight.grad for name, weight in module.named_parameters() if weight.requires_grad}
    assert [name for name, grad in trained.items() if grad is None or not grad.abs().max() > 1e-6] == []


@pytest.mark.parametrize("seed", [0, 1])
def test_random_weights_depend_on_the_seed_alone_and_keep_computed_tables(seed: int) -> None:
    first, second, built = drawn(RaeDitDh, TINY, seed), drawn(RaeDitDh, TINY, seed), RaeDitDh(TINY).state_dict()
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
        assert torch.equal(value, built[name]) == ("freqs" in name or name == "pos_embed"), name


@pytest.mark.parametrize("model", [m for m in models() if m.family == "rae-dit-dh"], ids=lambda model: model.name)
def test_parameter_counts_are_true(model: Any) -> None:
    config = resolve(FAMILY.schema, SIZES[model.name])
    assert sum(weight.numel() for weight in without_memory(RaeDitDh, config).parameters()) == model.parameters
    assert config.register_start == {12: 4, 28: 8}[config.depth[0]]


def test_subject_describes_trunk_registers_and_sites() -> None:
    group = ReplaceSpec(layers=(0, 2), rule="median", threshold=1.5)
    subject = load_subject("rae-dit-dh", random_weights=0, registers=4, replace=[group], **SIZED, **SHAPED)
    assert subject.dsr.sites()["ReplaceOutliers"] == 2
    assert (subject.dsr.denoiser.registers, subject.dsr.denoiser.start) == (4, 1)
    sites = {layer: site.exclude for layer, site in subject.module.replacements.items()}  # type: ignore[union-attr]
    assert sites == {"0": [], "2": [0, 1, 2, 3]}
    assert subject.family == "rae-dit-dh" and subject.inputs[0].shape == ("batch", 5, 3, 3)
    plain = load_subject("rae-dit-dh", random_weights=0, registers=4, **SIZED, **SHAPED).module
    assert (subject.module(*_inputs()) - plain(*_inputs())).abs().max() > 1e-3


def test_replacement_in_the_head_is_refused() -> None:
    group = ReplaceSpec(layers=(3,), rule="median", threshold=1.5)
    with pytest.raises(ExportError, match="blocks 0 to 2"):
        load_subject("rae-dit-dh", random_weights=0, registers=4, replace=[group], **SIZED, **SHAPED)


@pytest.mark.parametrize("registers", [0, 5])
def test_checkpoints_load_and_say_their_registers(tmp_path: Path, registers: int) -> None:
    made = load_subject("rae-dit-dh", random_weights=0, registers=registers, **SIZED, **SHAPED).module
    save_file(made.state_dict(), tmp_path / "a.safetensors")
    options = {**SHAPED, "num_classes": 5, "register_start": 1}
    subject = load_subject("rae-dit-dh", checkpoint=tmp_path / "a.safetensors", **options)
    assert subject.dsr.denoiser.registers == registers and subject.inputs[0].shape == ("batch", 5, 3, 3)
    assert torch.equal(subject.module(*_inputs()), made(*_inputs()))


def test_trained_registers_need_a_start(tmp_path: Path) -> None:
    made = load_subject("rae-dit-dh", random_weights=0, registers=4, **SIZED, **SHAPED).module
    save_file(made.state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(ExportError, match="which of 3 blocks") as caught:
        load_subject("rae-dit-dh", checkpoint=tmp_path / "a.safetensors", num_classes=5, **SHAPED)
    assert "register_start" in str(caught.value.hint)
    with pytest.raises(ExportError) as caught:
        load_subject("rae-dit-dh", checkpoint=tmp_path / "a.safetensors", registers=9, num_classes=5, **SHAPED)
    assert "--registers 4" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("name", "other", "message"),
    [
        ("rae-dit-dh-xl", "rae-dit-dh", "hidden size 32 \\+ 48 and 5 blocks, 'rae-dit-dh-xl' 1152 \\+ 2048 and 30"),
        ("rae-dit-xl", "rae-dit-dh", "wide head"),
        ("rae-dit-dh-xl", "rae-dit", "without a wide head"),
    ],
)
def test_checkpoints_of_another_model_are_named(tmp_path: Path, name: str, other: str, message: str) -> None:
    shape = SHAPED if other == "rae-dit-dh" else {"hidden_size": 32, "depth": 3, "num_heads": 4}
    save_file(load_subject(other, random_weights=0, **SIZED, **shape).module.state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(ExportError, match=message):
        load_subject(name, checkpoint=tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_size": 32}, "pair of whole numbers"),
        ({"hidden_size": [32, 48, 64]}, "pair of whole numbers"),
        ({"depth": [3, True]}, "pair of whole numbers"),
        ({"depth": [3, 0]}, "at least 1"),
        ({"num_heads": [4, 5]}, "hidden_size 48 is not divisible by num_heads 5"),
        ({"patch_size": 3}, "patches of 1"),
        ({"use_rope": False}, "use_rope"),
        ({"wo_shift": True}, "wo_shift"),
        ({"registers": 4, "register_start": 3}, "outside"),
        ({"learn_sigma": True}, "no option 'learn_sigma'"),
    ],
)
def test_options_that_cannot_be_built_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        load_subject("rae-dit-dh", random_weights=0, **{**SIZED, **SHAPED, **options})


def test_one_number_of_heads_is_for_both_stacks() -> None:
    subject = load_subject("rae-dit-dh", random_weights=0, **{**SIZED, **SHAPED, "num_heads": 4})
    assert subject.config["num_heads"] == (4, 4)
