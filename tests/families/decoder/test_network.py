"""`RaeDecoder` against an independent numpy forward, its checkpoints, and its norms in FP16."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dsr_export.errors import ExportError
from dsr_export.families import entry, load_subject
from dsr_export.families.decoder.models import SIZES, random_decoder
from dsr_export.families.decoder.network import RaeDecoder, RaeDecoderConfig, position_table
from dsr_export.subject import Subject
from graphs.lowering import lower, optimize
from graphs.mixed_precision.islands import PrecisionPolicy
from graphs.mixed_precision.typed import assign_precision

Array = npt.NDArray[np.float64]
TINY: dict[str, Any] = {
    "hidden_size": 6,
    "latent_size": 3,
    "patch_size": 2,
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 24,
}
CONFIG = RaeDecoderConfig(**TINY)


def _norm(x: Array, state: dict[str, Array], name: str) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def _linear(x: Array, state: dict[str, Array], name: str) -> Array:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def _attention(x: Array, state: dict[str, Array], name: str) -> Array:
    q, k, v = (_linear(x, state, f"{name}.attention.{part}") for part in ("query", "key", "value"))
    out = np.empty_like(x)
    width = x.shape[1] // TINY["decoder_num_attention_heads"]
    for start in range(0, x.shape[1], width):
        head = slice(start, start + width)
        weights = np.exp(q[:, head] @ k[:, head].T / math.sqrt(width))
        out[:, head] = weights / weights.sum(-1, keepdims=True) @ v[:, head]
    return _linear(out, state, f"{name}.output.dense")


def _oracle(state: dict[str, Array], z: Array) -> Array:
    """One latent [C, h, w] -> one image [3, H, W], written from the method sheet in float64."""
    grid, patch = TINY["latent_size"], TINY["patch_size"]
    tokens = np.stack([z[:, row, column] for row in range(grid) for column in range(grid)])
    x = np.concatenate([state["trainable_cls_token"][0], _linear(tokens, state, "decoder_embed")])
    x = x + state["decoder_pos_embed"][0]
    for i in range(TINY["decoder_num_hidden_layers"]):
        layer = f"decoder_layers.{i}"
        x = x + _attention(_norm(x, state, f"{layer}.layernorm_before"), state, f"{layer}.attention")
        h = _linear(_norm(x, state, f"{layer}.layernorm_after"), state, f"{layer}.intermediate.dense")
        h = h * 0.5 * (1 + np.vectorize(math.erf)(h / math.sqrt(2)))
        x = x + _linear(h, state, f"{layer}.output.dense")
    pixels = _linear(_norm(x, state, "decoder_norm"), state, "decoder_pred")[1:]
    image = np.zeros((3, grid * patch, grid * patch))
    for n, values in enumerate(pixels):
        top, left = n // grid * patch, n % grid * patch
        image[:, top : top + patch, left : left + patch] = values.reshape(patch, patch, 3).transpose(2, 0, 1)
    return image


def test_matches_an_independent_forward() -> None:
    module = random_decoder(CONFIG, 0)
    state = {name: weight.detach().double().numpy() for name, weight in module.state_dict().items()}
    z = torch.randn(2, 6, 3, 3, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = module(z).numpy()
    expected = np.stack([_oracle(state, row) for row in z.double().numpy()])
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_names_are_those_of_released_checkpoints() -> None:
    layer = [
        *(f"attention.attention.{part}" for part in ("query", "key", "value")),
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
        "layernorm_before",
        "layernorm_after",
    ]
    modules = [*(f"decoder_layers.{i}.{part}" for i in range(2) for part in layer)]
    modules += ["decoder_embed", "decoder_norm", "decoder_pred"]
    expected = {f"{name}.{kind}" for name in modules for kind in ("weight", "bias")}
    assert set(random_decoder(CONFIG, 0).state_dict()) == expected | {"trainable_cls_token", "decoder_pos_embed"}


def test_positions_are_sin_cos_behind_a_zero_row() -> None:
    table = position_table(CONFIG)[0]
    assert table.shape == (10, 16) and not table[0].any()
    column, row, dim = 2, 1, 16
    omega = [10_000 ** (-i / (dim / 4)) for i in range(dim // 4)]
    expected = [f(v * w) for v in (column, row) for f in (math.sin, math.cos) for w in omega]
    np.testing.assert_allclose(table[1 + row * 3 + column].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("name", SIZES)
def test_parameter_counts_are_true(name: str) -> None:
    with torch.device("meta"):
        module = RaeDecoder(RaeDecoderConfig(**SIZES[name]))  # type: ignore[arg-type]
    assert sum(weight.numel() for weight in module.parameters()) == entry(name).parameters
    assert module.decoder_pos_embed.shape == (1, 257, module.config.decoder_hidden_size)
    assert module.decoder_pred.out_features == 16 * 16 * 3


def _saved(path: Path, *, prefix: str = "", without: tuple[str, ...] = ()) -> Path:
    state = {prefix + k: v for k, v in random_decoder(CONFIG, 5).state_dict().items() if k not in without}
    save_file(state | ({"encoder.x": torch.zeros(1)} if prefix else {}), path)
    return path


_SHAPELESS = {k: TINY[k] for k in TINY if k.startswith("decoder_")}  # the rest is read off the checkpoint


@pytest.mark.parametrize("prefix", ["", "decoder."], ids=["decoder", "autoencoder"])
def test_a_checkpoint_is_loaded(tmp_path: Path, prefix: str) -> None:
    path = _saved(tmp_path / "model.safetensors", prefix=prefix)
    subject = load_subject("rae-decoder", checkpoint=path, **_SHAPELESS)
    assert subject.inputs[0].shape == ("batch", 6, 3, 3) and subject.outputs[0].shape == ("batch", 3, 6, 6)
    for name, weight in random_decoder(CONFIG, 5).state_dict().items():
        assert torch.equal(weight, subject.module.state_dict()[name]), name


def test_fixed_positions_may_be_absent(tmp_path: Path) -> None:
    path = _saved(tmp_path / "model.safetensors", without=("decoder_pos_embed",))
    module = load_subject("rae-decoder", checkpoint=path, latent_size=3, **_SHAPELESS).module
    assert torch.equal(module.state_dict()["decoder_pos_embed"], position_table(CONFIG))


def test_other_weights_may_not_be_absent(tmp_path: Path) -> None:
    path = _saved(tmp_path / "model.safetensors", without=("trainable_cls_token",))
    with pytest.raises(ExportError, match="trainable_cls_token"):
        load_subject("rae-decoder", checkpoint=path, **_SHAPELESS)


def test_a_checkpoint_of_another_size_is_named(tmp_path: Path) -> None:
    state = {f"decoder_layers.{i}.layernorm_before.weight": torch.ones(768) for i in range(12)}
    save_file({**state, "decoder_embed.bias": torch.ones(768)}, tmp_path / "model.safetensors")
    with pytest.raises(ExportError, match="hidden size 768 and 12 layers") as caught:
        load_subject("rae-decoder", checkpoint=tmp_path / "model.safetensors")
    assert caught.value.hint == "use rae-decoder-b"


def test_latent_statistics_are_undone(tmp_path: Path) -> None:
    mean, var = torch.randn(6, 3, 3), torch.rand(6, 3, 3)
    save_file({"mean": mean, "var": var}, tmp_path / "stat.safetensors")
    plain = load_subject("rae-decoder", random_weights=0, **TINY).module
    module = load_subject(
        "rae-decoder", random_weights=0, latent_stats=str(tmp_path / "stat.safetensors"), **TINY
    ).module
    z = torch.randn(2, 6, 3, 3)
    torch.testing.assert_close(module(z), plain(z * torch.sqrt(var + 1e-5) + mean))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoder_hiden_size": 16}, "decoder_hiden_size"),
        ({"decoder_hidden_size": 15}, "not divisible by decoder_num_attention_heads"),
        ({"decoder_hidden_size": 18}, "not divisible by 4"),
        ({"decoder_num_hidden_layers": 0}, "at least 1"),
        ({"patch_size": 2.0}, "not of type int"),
        ({"layer_norm_eps": -1.0}, "layer_norm_eps"),
        ({"registers": 4}, "no registers"),
        ({"encoder": "sigclip"}, "encoder 'sigclip'"),
        ({"encoder": 3}, "not of type str"),
    ],
)
def test_options_that_cannot_be_built_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        load_subject("rae-decoder", random_weights=0, **{**TINY, **options})


def test_the_encoder_is_recorded_and_changes_no_weight() -> None:
    siglip, dino = (
        load_subject("rae-decoder", random_weights=0, **TINY, **kind) for kind in ({}, {"encoder": "dinov2"})
    )
    assert (siglip.config["encoder"], dino.config["encoder"]) == ("siglip", "dinov2")
    z = torch.randn(1, 6, 3, 3)
    assert torch.equal(siglip.module(z), dino.module(z))


@pytest.fixture(scope="module")
def subject() -> Subject:
    return load_subject("rae-decoder", random_weights=0, **TINY)


def test_norms_keep_their_epsilon_in_fp16(subject: Subject, tmp_path: Path) -> None:
    """1e-12 is zero in FP16: every LayerNormalization must have FP32 inputs, whatever the precision."""
    graph, _ = optimize(lower(subject.trace(tmp_path / "t.onnx"), tmp_path / "l.onnx")[0], tmp_path / "o.onnx")
    typed, _ = assign_precision(graph, tmp_path / "fp16.onnx", "fp16", PrecisionPolicy())
    model = onnx.shape_inference.infer_shapes(onnx.load(typed.path))
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    types |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    norms = [node for node in model.graph.node if node.op_type == "LayerNormalization"]
    assert len(norms) == 5
    for node in norms:
        assert {types[name] for name in [*node.input, *node.output]} == {onnx.TensorProto.FLOAT}, node.name
        assert [a.f for a in node.attribute if a.name == "epsilon"] == [pytest.approx(1e-12)]
    halves = [node for node in model.graph.node if types.get(node.output[0]) == onnx.TensorProto.FLOAT16]
    assert any(node.op_type == "MatMul" for node in halves)


def test_a_constant_token_does_not_divide_by_zero(subject: Subject) -> None:
    """A token without spread is where the epsilon alone decides."""
    module: Any = subject.module
    x: Tensor = module.decoder_norm(torch.full((1, 1, 16), 3.0))
    assert x.isfinite().all()
