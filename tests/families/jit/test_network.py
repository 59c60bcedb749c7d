"""`Jit` against an independent numpy forward, and the facts that checkpoints rely on."""

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
from dsr_export.families.jit.models import JIT
from dsr_export.families.jit.network import Jit, JitConfig
from dsr_export.families.network_parts.randomise import drawn, without_memory
from dsr_export.families.schema import resolve
from dsr_export.spec import DenoiserSpec, ReplaceSpec
from tests.families import dit_oracle as oracle
from tests.families import tiny_sizes

SIZES = {**tiny_sizes.SIZES, "input_size": 16, "patch_size": 4, "bottleneck_dim": 12}
TINY = JitConfig(**SIZES, register_len=5, register_start=1)
REQUIRED = {**tiny_sizes.REQUIRED, "patch_size": 4}
VARIANTS: dict[str, dict[str, Any]] = {
    "in-context tokens": {},
    "from block 0": {"register_start": 0},
    "before the last block": {"register_start": 2},
    "none": {"register_conditioning": False, "register_len": 0, "register_start": 0},
    "one channel": {"in_channels": 1},
    "mlp ratio": {"mlp_ratio": 3.0},
}


def _inputs(config: JitConfig = TINY) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, config.in_channels, config.input_size, config.input_size, generator=generator)
    return x, torch.tensor([0.0, 0.4, 1.0]), torch.tensor([0, 3, 5])


def _saved(path: Path, state: dict[str, Tensor]) -> Path:
    stale = {name: value + 1 for name, value in state.items()}
    wrapped = {key: {f"net.{name}": value for name, value in stale.items()} for key in ("model", "model_ema2")}
    ema = {f"net.{name}": value for name, value in state.items()}
    torch.save({**wrapped, "model_ema1": ema, "optimizer": {}, "epoch": 3, "args": argparse.Namespace(lr=0.1)}, path)
    return path


@pytest.mark.parametrize("variant", VARIANTS)
def test_forward_matches_an_independent_implementation(variant: str) -> None:
    config = dataclasses.replace(TINY, **VARIANTS[variant])
    module = drawn(Jit, config, 0)
    x, t, y = _inputs(config)
    weights = {name: value.double().numpy() for name, value in module.state_dict().items()}
    with torch.no_grad():
        found = module(x, t, y).numpy()
    np.testing.assert_allclose(found, oracle.forward(weights, config, x.numpy(), t.numpy(), y.numpy()), atol=2e-4)


def test_a_released_size_has_the_released_names_and_shapes() -> None:
    module = without_memory(Jit, resolve(JIT.schema, JIT.sizes["jit-h-32"], registers=32))
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    block = {
        "attn.qkv": (3840, 1280),
        "attn.proj": (1280, 1280),
        "mlp.w12": (6826, 1280),
        "mlp.w3": (1280, 3413),
        "adaLN_modulation.1": (7680, 1280),
    }
    linear = {
        "t_embedder.mlp.0": (1280, 256),
        "t_embedder.mlp.2": (1280, 1280),
        "x_embedder.proj2": (1280, 256, 1, 1),
        "final_layer.linear": (3072, 1280),
        "final_layer.adaLN_modulation.1": (2560, 1280),
        **{f"blocks.{i}.{name}": shape for i in range(32) for name, shape in block.items()},
    }
    expected: dict[str, tuple[int, ...]] = {
        "pos_embed": (1, 256, 1280),
        "in_context_posemb": (1, 32, 1280),
        "y_embedder.embedding_table.weight": (1001, 1280),
        "x_embedder.proj1.weight": (256, 3, 32, 32),
        "final_layer.norm_final.weight": (1280,),
    }
    for i in range(32):
        expected |= {f"blocks.{i}.{norm}.weight": (1280,) for norm in ("norm1", "norm2")}
        expected |= {f"blocks.{i}.attn.{norm}.weight": (80,) for norm in ("q_norm", "k_norm")}
    for name, shape in linear.items():
        expected |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    assert shapes == expected


def test_registered_models_have_their_sizes_and_parameter_counts() -> None:
    counts = {model.name: model.parameters for model in models() if model.family == "jit"}
    assert counts.keys() == JIT.sizes.keys() and len(counts) == 6
    for name, size in JIT.sizes.items():
        module = without_memory(Jit, resolve(JIT.schema, size, registers=32))
        assert sum(weight.numel() for weight in module.parameters()) == counts[name]
        assert module.pos_embed.shape[1] == 256


def test_every_weight_matters() -> None:
    module = drawn(Jit, TINY, 3)
    module(*_inputs()).square().sum().backward()
    trained = {name: weight.grad for name, weight in module.named_parameters() if weight.requires_grad}
    assert [name for name, grad in trained.items() if grad is None or not grad.abs().max() > 1e-6] == []


@pytest.mark.parametrize(("depth", "hidden"), [(1, 32), (32, 64)])
def test_random_outputs_are_of_order_one_and_read_everything(depth: int, hidden: int) -> None:
    module = drawn(Jit, dataclasses.replace(TINY, depth=depth, hidden_size=hidden, register_start=0), 3)
    x, t, y = _inputs()
    out = module(x, t, y)
    assert out.isfinite().all() and 0.3 < out.std() < 3
    for changed in ((x + 0.5, t, y), (x, 1 - t, y), (x, t, (y + 1) % 6)):
        assert (module(*changed) - out).abs().mean() > 1e-2


class TestSubject:
    def test_released_names_of_in_context_tokens_are_taken(self) -> None:
        subject = load_subject("jit", random_weights=0, **SIZES, in_context_len=5, in_context_start=2)
        assert subject.dsr.denoiser == DenoiserSpec(kind="diffusion", registers=5, start=2)
        assert load_subject("jit", random_weights=0, registers=0, **SIZES).dsr.denoiser == DenoiserSpec()
        assert load_subject("jit", random_weights=0, **SIZES).dsr.denoiser.registers == 32

    def test_the_first_ema_weights_are_loaded(self, tmp_path: Path) -> None:
        module = drawn(Jit, TINY, 0)
        path = _saved(tmp_path / "checkpoint-last.pth", module.state_dict())
        subject = load_subject("jit", checkpoint=path, **REQUIRED, in_context_start=1)
        assert subject.config == dataclasses.asdict(TINY)
        assert torch.equal(subject.module(*_inputs()), module(*_inputs()))

    def test_another_size_is_named(self, tmp_path: Path) -> None:
        state = {"pos_embed": torch.zeros(1, 256, 768), "x_embedder.proj1.weight": torch.zeros(128, 3, 32, 32)}
        save_file({**state, **{f"blocks.{i}.a": torch.zeros(1) for i in range(12)}}, tmp_path / "a.safetensors")
        with pytest.raises(ExportError, match="hidden size 768, patch size 32 and 12 blocks, 'jit-b-16'") as caught:
            load_subject("jit-b-16", checkpoint=tmp_path / "a.safetensors")
        assert caught.value.hint == "use jit-b-32"

    @pytest.mark.parametrize(("side", "scale"), [(16, 1.0), (512, 2.0)])
    def test_it_predicts_data_and_larger_images_get_more_noise(self, side: int, scale: float) -> None:
        sizes = {**SIZES, "input_size": side, "patch_size": side // 4}
        sampler = load_subject("jit", random_weights=0, **sizes).sampler
        assert sampler is not None and (sampler.prediction, sampler.path) == ("data", "reversed")
        assert (sampler.noise_scale, sampler.null_label) == (scale, 5)

    def test_replacement_borrows_no_in_context_tokens(self) -> None:
        group = ReplaceSpec(layers=(2,), rule="median", threshold=1.1)
        with pytest.raises(ExportError, match="depend on the label"):
            load_subject("jit", random_weights=0, replace=[group], **SIZES)
        clipped = dataclasses.replace(group, layers=(1,), choice="clip")  # the final norm hides the last block's
        subject = load_subject(
            "jit", random_weights=0, replace=[clipped], **SIZES, in_context_len=5, in_context_start=1
        )
        (site,) = subject.module.replacements.values()  # type: ignore[operator, union-attr]
        assert site.exclude == [0, 1, 2, 3, 4]
        assert (subject.module(*_inputs()) - drawn(Jit, TINY, 0)(*_inputs())).abs().max() > 1e-2

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"hidden_size": 24}, "head size 6"),
            ({"bottleneck_dim": 0}, "bottleneck_dim"),
            ({"patch_size": 5}, "does not divide"),
            ({"in_context_start": 3}, "outside"),
            ({"in_context_len": -1}, "register_len"),
            ({"register_cond": True}, "register_cond"),
        ],
    )
    def test_options_that_cannot_be_built_are_refused(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ExportError, match=message):
            load_subject("jit", random_weights=0, **{**SIZES, **options})
