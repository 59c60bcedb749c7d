"""`RaeDit` against an independent numpy forward, and the facts that checkpoints rely on."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dsr_export.families.network_parts.embeddings import PatchEmbed, RotaryEmbedding2D
from dsr_export.families.network_parts.randomise import drawn, without_memory
from dsr_export.families.rae_dit.config import resolve_config
from dsr_export.families.rae_dit.models import SIZES as RELEASED
from dsr_export.families.rae_dit.network import RaeDit, RaeDitConfig
from dsr_export.registers import RecursiveReplacement
from tests.families import oracle_blocks
from tests.families import rae_dit_oracle as oracle
from tests.families.tiny_sizes import SIZES

TINY = RaeDitConfig(**SIZES, register_conditioning=True, register_len=4, register_start=1)
VARIANTS: dict[str, dict[str, Any]] = {
    "registers": {},
    "registers from block 0": {"register_start": 0},
    "registers before the last block": {"register_start": 2},
    "no registers": {"register_conditioning": False, "register_len": 0, "register_start": 0},
    "five registers": {"register_len": 5},
    "qk norm": {"use_qknorm": True},
    "learned sigma": {"learn_sigma": True},
    "patch 1": {"patch_size": 1},
    "mlp ratio": {"mlp_ratio": 3.0},
    "plain mlp": {"use_swiglu": False},
    "layer norm": {"use_rmsnorm": False},
    "layer norm, qk norm": {"use_rmsnorm": False, "use_qknorm": True},
    "no rope": {"use_rope": False, "register_conditioning": False, "register_len": 0, "register_start": 0},
    "no final norm": {"final_no_ln": True},
    "attention sinks": {"attn_with_bias": True},
}


def _inputs(config: RaeDitConfig, batch: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, config.in_channels, config.input_size, config.input_size, generator=generator)
    return x, torch.linspace(0.1, 1.0, batch), torch.arange(batch) % (config.num_classes + 1)


def _replaced(**changes: Any) -> RaeDitConfig:
    return dataclasses.replace(TINY, **changes)


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "learned sigma"])
def test_forward_matches_an_independent_implementation(variant: str) -> None:
    config = _replaced(**VARIANTS[variant])
    module = drawn(RaeDit, config, 0)
    x, t, y = _inputs(config)
    weights = {name: value.double().numpy() for name, value in module.state_dict().items()}
    with torch.no_grad():
        found = module(x, t, y).numpy()
    np.testing.assert_allclose(found, oracle.forward(weights, config, x.numpy(), t.numpy(), y.numpy()), atol=2e-4)


def test_learned_sigma_keeps_the_first_channels() -> None:
    module = drawn(RaeDit, _replaced(learn_sigma=True), 0)
    assert module.final_layer.linear.out_features == 4 * 6
    assert module(*_inputs(TINY)).shape == (3, 3, 4, 4)


def test_state_dict_has_the_released_names_and_shapes() -> None:
    shapes = {name: tuple(value.shape) for name, value in without_memory(RaeDit, TINY).state_dict().items()}
    expected = {**_stem(tokens=4, registers=4, dim=32, head=8, channels=3, patch=2, rows=6)}
    for i in range(3):
        expected |= {f"blocks.{i}.{name}": shape for name, shape in _block(dim=32, hidden=85).items()}
    assert shapes == expected


@pytest.mark.parametrize(("size", "hidden"), [("s", 1024), ("b", 2048), ("l", 2730), ("xl", 3072)])
def test_registered_sizes_have_the_released_shapes(size: str, hidden: int) -> None:
    config = resolve_config(RELEASED[f"rae-dit-{size}"])
    shapes = {name: tuple(value.shape) for name, value in without_memory(RaeDit, config).state_dict().items()}
    dim = config.hidden_size
    stem = _stem(tokens=256, registers=36, dim=dim, head=dim // config.num_heads, channels=768, patch=1, rows=1001)
    last = {f"blocks.{config.depth - 1}.{name}": shape for name, shape in _block(dim=dim, hidden=hidden).items()}
    assert stem.items() <= shapes.items() and last.items() <= shapes.items()
    assert len(shapes) == len(stem) + config.depth * len(last)


def _stem(*, tokens: int, registers: int, dim: int, head: int, channels: int, patch: int, rows: int) -> dict[str, Any]:
    out = channels * patch**2
    return {
        "pos_embed": (1, tokens, dim),
        "register_tokens": (1, registers, dim),
        "register_pos_embed": (1, registers, dim),
        "x_embedder.proj.weight": (dim, channels, patch, patch),
        "x_embedder.proj.bias": (dim,),
        "t_embedder.W": (256,),
        "t_embedder.mlp.0.weight": (dim, 512),
        "t_embedder.mlp.0.bias": (dim,),
        "t_embedder.mlp.2.weight": (dim, dim),
        "t_embedder.mlp.2.bias": (dim,),
        "y_embedder.embedding_table.weight": (rows, dim),
        "feat_rope.freqs_cos": (tokens, head),
        "feat_rope.freqs_sin": (tokens, head),
        "feat_rope_incontext.freqs_cos": (registers + tokens, head),
        "feat_rope_incontext.freqs_sin": (registers + tokens, head),
        "final_layer.norm_final.weight": (dim,),
        "final_layer.linear.weight": (out, dim),
        "final_layer.linear.bias": (out,),
        "final_layer.adaLN_modulation.1.weight": (2 * dim, dim),
        "final_layer.adaLN_modulation.1.bias": (2 * dim,),
    }


def _block(*, dim: int, hidden: int) -> dict[str, tuple[int, ...]]:
    layers = {
        "attn.qkv": (3 * dim, dim),
        "attn.proj": (dim, dim),
        "mlp.w12": (2 * hidden, dim),
        "mlp.w3": (dim, hidden),
        "adaLN_modulation.1": (6 * dim, dim),
    }
    shapes: dict[str, tuple[int, ...]] = {"norm1.weight": (dim,), "norm2.weight": (dim,)}
    for name, shape in layers.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes


@pytest.mark.parametrize("prefix", [0, 3])
def test_rope_turns_interleaved_pairs_and_leaves_registers(prefix: int) -> None:
    x = torch.randn(1, 1, prefix + 9, 8)
    found = RotaryEmbedding2D(8, 3, prefix=prefix)(x)[0, 0]
    np.testing.assert_allclose(found, oracle_blocks.rotate(x[0, 0].numpy(), 3, prefix), atol=1e-6)
    assert torch.equal(found[:prefix], x[0, 0, :prefix])


def test_unpatchify_puts_row_column_channel_in_order() -> None:
    h = torch.arange(2 * 4 * 12).reshape(2, 4, 12)
    found = drawn(RaeDit, TINY, 0)._unpatchify(h)
    assert np.array_equal(found[1], oracle_blocks.unpatchify(h[1].numpy(), 3, 2, 2))


def test_patches_are_read_row_by_row() -> None:
    embed = PatchEmbed(2, 1, 1)
    nn.init.constant_(embed.proj.weight, 0.25)
    nn.init.zeros_(embed.proj.bias)  # type: ignore[arg-type]
    image = torch.arange(4.0).reshape(2, 2).repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert embed(image[None, None]).flatten().tolist() == [0, 1, 2, 3]


def test_registers_enter_at_their_block_and_leave_before_the_final_layer() -> None:
    module, seen = drawn(RaeDit, TINY, 0), []
    for watched in (*module.blocks, module.final_layer):
        watched.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    module(*_inputs(TINY))
    assert [h.shape[1] for h in seen] == [4, 8, 8, 4]
    assert torch.equal(seen[1][2, :4], module.registers())


@pytest.mark.parametrize("choice", ["mask", "clip"])
def test_baselines_work_without_registers(choice: Any) -> None:
    module = drawn(RaeDit, _replaced(**VARIANTS["no registers"]), 0)
    module.replace_at([1], RecursiveReplacement(rule="absolute", threshold=1.0, choice=choice))
    before = drawn(RaeDit, _replaced(**VARIANTS["no registers"]), 0)
    assert (module(*_inputs(TINY)) - before(*_inputs(TINY))).abs().max() > 1e-3


class TestRandomModule:
    def test_the_seed_alone_decides(self) -> None:
        torch.manual_seed(1)
        first, state = drawn(RaeDit, TINY, 7).state_dict(), torch.get_rng_state()
        torch.manual_seed(2)
        second, other = drawn(RaeDit, TINY, 7).state_dict(), drawn(RaeDit, TINY, 8).state_dict()
        assert all(torch.equal(first[name], second[name]) for name in first)
        fixed = {name for name in first if torch.equal(first[name], other[name])}
        assert fixed == {"pos_embed", *(name for name in first if "freqs" in name)}
        torch.manual_seed(1)
        assert torch.equal(state, torch.get_rng_state())

    def test_computed_tables_are_those_of_the_constructor(self) -> None:
        found, built = drawn(RaeDit, TINY, 0).state_dict(), RaeDit(TINY).state_dict()
        for name in ("pos_embed", *(name for name in built if "freqs" in name)):
            assert torch.equal(found[name], built[name])

    @pytest.mark.parametrize(("depth", "hidden"), [(1, 32), (28, 64)])
    def test_outputs_are_of_order_one_and_read_everything(self, depth: int, hidden: int) -> None:
        module = drawn(RaeDit, _replaced(depth=depth, hidden_size=hidden, register_start=0), 3)
        x, t, y = _inputs(TINY)
        out = module(x, t, y)
        assert out.isfinite().all() and 0.3 < out.std() < 3
        for changed in ((x + 0.5, t, y), (x, t * 0.5, y), (x, t, y + 1)):
            assert (module(*changed) - out).abs().mean() > 1e-2

    def test_every_weight_matters(self) -> None:
        module = drawn(RaeDit, TINY, 3)
        out = module(*_inputs(TINY))
        out.square().sum().backward()
        trained = {name: weight.grad for name, weight in module.named_parameters() if weight.requires_grad}
        idle = [name for name, grad in trained.items() if grad is None or not grad.abs().max() > 1e-6]
        assert idle == []
