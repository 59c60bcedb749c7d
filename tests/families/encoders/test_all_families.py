"""Every family, known by name or by structure, against hooks on the plain `transformers` model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch.nn import functional as F

from dsr_export.backends.onnxruntime import OnnxRuntimeRunner
from dsr_export.errors import ExportError
from dsr_export.families import load_subject
from graphs.lowering import lower, optimize
from tests.families.encoders.cases import (
    CASES,
    HIDDEN,
    NEURONS,
    Case,
    dsr_file,
    expected_tokens,
    image_of,
    layers_of,
    saved,
)


@pytest.mark.parametrize("name", CASES)
def test_without_and_with_test_time_registers(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    model, image = saved(case, tmp_path / "model"), image_of(case)
    bare = load_subject(case.family, checkpoint=tmp_path / "model")
    expected = expected_tokens(case, model, image)[-1]
    torch.testing.assert_close(bare.module(image), expected, rtol=0, atol=2e-5)
    dsr = dsr_file(tmp_path, registers=2, scale=[0.5, -2.0], normal_values="mean")
    subject = load_subject(case.family, checkpoint=tmp_path / "model", dsr=dsr)
    edited = expected_tokens(case, model, image, neurons=NEURONS, registers=2, scale=(0.5, -2.0), mode="mean")[-1]
    torch.testing.assert_close(subject.module(image), edited, rtol=0, atol=2e-5)
    assert (edited - expected).abs().max() > 0.01  # far above the tolerance: the edit is not lost in it


@pytest.mark.parametrize("name", CASES)
def test_registers_that_were_trained_apart_are_appended(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    model, image = saved(case, tmp_path / "model"), image_of(case)
    rows = torch.randn(3, HIDDEN, generator=torch.Generator().manual_seed(7))
    save_file({"registers": rows}, tmp_path / "r.safetensors")
    (tmp_path / "dsr.toml").write_text('[encoder]\nkind = "appended"\nregister_file = "r.safetensors"\n')
    subject = load_subject(case.family, checkpoint=tmp_path / "model", dsr=tmp_path / "dsr.toml")
    expected = expected_tokens(case, model, image, appended=rows)[-1]
    torch.testing.assert_close(subject.module(image), expected, rtol=0, atol=2e-5)
    assert (expected - expected_tokens(case, model, image)[-1]).abs().max() > 0.01
    assert (subject.dsr.encoder.registers, subject.dsr.as_dict()["encoder"]["register_file"]) == (3, "r.safetensors")


def test_naflex_reads_flat_patches_of_a_given_grid(tmp_path: Path) -> None:
    case = CASES["naflex"]
    model = saved(case, tmp_path)
    subject = load_subject("siglip2", checkpoint=tmp_path, grid="2x5")
    assert (subject.inputs[0].name, subject.inputs[0].shape) == ("patches", ("batch", 10, 48))
    patches = torch.randn(2, 10, 48, generator=torch.Generator().manual_seed(5))
    inputs = {"pixel_attention_mask": torch.ones(2, 10), "spatial_shapes": torch.tensor([[2, 5], [2, 5]])}
    with torch.no_grad():
        made = model(patches, **inputs, output_hidden_states=True).hidden_states[-1]
    eps = float(model.config.layer_norm_eps)
    torch.testing.assert_close(subject.module(patches), F.layer_norm(made, (HIDDEN,), eps=eps), rtol=0, atol=2e-5)
    with pytest.raises(ExportError, match="reads flat patches"):
        load_subject("siglip2", checkpoint=tmp_path, image_size=16)


@pytest.mark.parametrize(
    "name", ["dinov3", *(pytest.param(each, marks=pytest.mark.slow) for each in CASES if each != "dinov3")]
)
def test_onnxruntime_follows_the_hooks(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    model, image = saved(case, tmp_path / "model"), image_of(case)
    dsr = dsr_file(tmp_path, registers=2, scale=[0.5, -2.0])
    subject = load_subject(case.family, checkpoint=tmp_path / "model", dsr=dsr)
    expected = expected_tokens(case, model, image, neurons=NEURONS, registers=2, scale=(0.5, -2.0))[-1]
    traced = subject.trace(tmp_path / "traced.onnx")
    graph, _ = optimize(lower(traced, tmp_path / "lowered.onnx")[0], tmp_path / "optimized.onnx")
    with OnnxRuntimeRunner(graph.path, inputs=subject.inputs) as runner:
        found = runner.infer({"image": image.numpy()})["tokens"]
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-4)


def test_relative_positions_do_not_bias_appended_rows(tmp_path: Path) -> None:
    """BEiT's bias has an entry per pair of tokens; the oracle pads what the module makes."""
    case = Case("vit", "BeitConfig", "BeitModel", {"use_relative_position_bias": True})
    model, image = saved(case, tmp_path / "model"), image_of(case)
    subject = load_subject("vit", checkpoint=tmp_path / "model", dsr=dsr_file(tmp_path, registers=2))
    for layer in layers_of(model):
        layer.relative_position_bias.register_forward_hook(lambda _, __, bias: F.pad(bias, (0, 2, 0, 2)))
    expected = expected_tokens(case, model, image, neurons=NEURONS, registers=2, scale=(1.0, 1.0))[-1]
    torch.testing.assert_close(subject.module(image), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("config", "sizes", "message"),
    [
        ("SwinConfig", {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2}, "changes the shape"),
        ("ConvNextConfig", {"hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1]}, "not tokens"),
        ("BertConfig", {"vocab_size": 9, "hidden_size": 32, "num_attention_heads": 4}, "reads input_ids"),
    ],
)
def test_what_is_no_stack_of_layers_over_patches_is_refused(
    config: str, sizes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    made = getattr(transformers, config)(**{"image_size": 32, **sizes})
    transformers.AutoModel.from_config(made).save_pretrained(tmp_path)
    with pytest.raises(ExportError, match=message):
        load_subject("vit", checkpoint=tmp_path)
