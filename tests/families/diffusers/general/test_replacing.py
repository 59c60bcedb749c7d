"""Replacement behind the blocks of a class without an adapter of its own, against hooks on diffusers' model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dsr_export.backends.onnxruntime import OnnxRuntimeRunner
from dsr_export.errors import ExportError
from dsr_export.spec import ReplaceSpec
from graphs.lowering import lower
from tests.families.diffusers.general.tiny import TINY, bare_folder, loaded, saved
from tests.families.diffusers.in_place import MADE, REGISTERS, Made, Place, check_sites

pytest.importorskip("diffusers", reason="the models extra is not installed")

CLIP = ReplaceSpec(layers=(0,), rule="median", threshold=1.1, rounds=2, choice="clip")


def _clipped(tokens: Any) -> Any:
    """Tokens [B, N, D] over 1.1 medians of their norms scaled down to it, twice: the definition, written out."""
    for _ in range(2):
        norms = np.linalg.norm(tokens, axis=-1, keepdims=True)
        limit = 1.1 * np.sort(norms, axis=1)[:, (norms.shape[1] - 1) // 2, None]
        tokens = np.where(norms > limit, tokens * limit / norms, tokens)
    return tokens


SLOW = [
    pytest.param(*each, marks=pytest.mark.slow)
    for each in (("QwenImageTransformer2DModel", 1), ("ZImageTransformer2DModel", None))
]


@pytest.mark.parametrize(("name", "place"), [("SanaTransformer2DModel", None), *SLOW])
def test_the_image_tokens_behind_a_block_are_replaced(name: str, place: int | None, tmp_path: Path) -> None:
    model = saved(name, tmp_path / "model")
    subject = loaded(tmp_path / "model", options=TINY[name].options, replace=(CLIP,))
    first = subject.config["layers"][0]
    changed: list[int] = []

    def hook(module: Any, args: Any, output: Any) -> Any:
        tokens = output if place is None else output[place]
        made = torch.from_numpy(_clipped(tokens.numpy()))
        changed.append(int((made != tokens).any(-1).sum()))
        return made if place is None else (*output[:place], made, *output[place + 1 :])

    model.get_submodule(first).register_forward_hook(hook)
    inputs = subject.example(3, seed=1)
    given = {key: torch.from_numpy(value) for key, value in inputs.items()}
    with torch.no_grad():
        made = model(**{**given, **TINY[name].beside(given)}, return_dict=False)[0]
    expected = (torch.stack(made) if isinstance(made, list) else made).numpy()
    assert sum(changed) > 0
    lowered, _ = lower(subject.trace(tmp_path / "traced.onnx"), tmp_path / "lowered.onnx")
    with OnnxRuntimeRunner(lowered.path, inputs=subject.inputs) as runner:
        np.testing.assert_allclose(runner.infer(inputs)["out"], expected, atol=1e-4)


@pytest.mark.parametrize("made_by", MADE)
def test_each_stream_is_decided_by_itself_where_both_are_one_sequence(made_by: Made, tmp_path: Path) -> None:
    """FLUX.2's single-stream blocks: the prompt's five tokens, then the picture's six."""
    model = saved("Flux2Transformer2DModel", tmp_path / "model", num_single_layers=2)
    save_file({"registers": torch.from_numpy(REGISTERS)}, tmp_path / "r.safetensors")
    image = ReplaceSpec(layers=(0, 1, 2), rule="sigma", threshold=1.0, rounds=2, choice="mask")
    text = ReplaceSpec(
        layers=(0, 1), rule="sigma", threshold=0.5, registers=str(tmp_path / "r.safetensors"), stream="text"
    )
    tiny = TINY["Flux2Transformer2DModel"]
    subject = loaded(tmp_path / "model", options=tiny.options, replace=(image, text))
    names, parts = subject.config["layers"], {"text": (0, slice(0, 5)), "image": (1, slice(5, 11))}
    sites = []
    for group in (image, text):
        at, rows = parts[group.stream]
        places = [Place(names[0], at), *(Place(name, None, rows) for name in names[1:])]
        sites += [(group, layer, places[layer]) for layer in group.layers]

    def call(inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        made: torch.Tensor = model(**{**inputs, **tiny.beside(dict(inputs))}, return_dict=False)[0]
        return made

    check_sites(model, call, subject, sites, made_by, tmp_path)


MOCHI = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "in_channels": 4, "time_embed_dim": 8}
MOCHI |= {"pooled_projection_dim": 12, "text_embed_dim": 16}


@pytest.mark.filterwarnings("ignore:In CPU autocast:UserWarning")  # what Mochi asks for
def test_registers_are_as_wide_as_the_tokens_of_their_stream(tmp_path: Path) -> None:
    """Mochi's prompt has 12 channels, its film 16."""
    folder = bare_folder(tmp_path / "model", "MochiTransformer3DModel", MOCHI)
    sizes = {"latent_height": 4, "latent_width": 6, "latent_frames": 2, "text_tokens": 5}

    def with_registers(width: int, **group: Any) -> Any:
        file = tmp_path / f"{width}.safetensors"
        save_file({"registers": torch.ones(2, width)}, file)
        spec = ReplaceSpec(layers=(0,), rule="median", threshold=2, registers=str(file), **group)
        return loaded(folder, options=sizes, replace=(spec,), random_weights=0)

    for width, group in ((12, {"stream": "text"}), (16, {})):
        assert with_registers(width, **group).dsr.sites()["ReplaceOutliers"] == 1
        with pytest.raises(ExportError, match=rf"shape \[R, {width}\], found \[2, {28 - width}\]"):
            with_registers(28 - width, **group)


def test_a_refiner_of_the_prompt_has_no_image_tokens(tmp_path: Path) -> None:
    saved("Lumina2Transformer2DModel", tmp_path)
    with pytest.raises(ExportError, match=r"block 0 \('context_refiner.0'\) hands on no image tokens") as raised:
        loaded(tmp_path, replace=(CLIP,))
    assert raised.value.hint == "these do: [1, 2]"
    subject = loaded(tmp_path, replace=(dataclasses.replace(CLIP, stream="text"),))
    assert list(subject.module.replacements) == ["0_text"]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (ReplaceSpec(layers=(7,), rule="median", threshold=4, choice="clip"), "the model has blocks 0 to 0"),
        (ReplaceSpec(layers=(0,), rule="median", threshold=4), "the model has no registers of its own"),
        (dataclasses.replace(CLIP, stream="text"), "no prompt's tokens"),
    ],
)
def test_groups_that_do_not_fit_are_refused(group: ReplaceSpec, message: str, tmp_path: Path) -> None:
    saved("SanaTransformer2DModel", tmp_path)
    with pytest.raises(ExportError, match=message):
        loaded(tmp_path, options=TINY["SanaTransformer2DModel"].options, replace=(group,))
