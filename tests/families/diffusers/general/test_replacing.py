"""Replacement behind the blocks of a class without an adapter of its own, against hooks on diffusers' model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dsr_export.backends.onnxruntime import OnnxRuntimeRunner
from dsr_export.errors import ExportError
from dsr_export.spec import ReplaceSpec
from graphs.lowering import lower
from tests.families.diffusers.general.tiny import TINY, loaded, saved

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


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (ReplaceSpec(layers=(7,), rule="median", threshold=4, choice="clip"), "the model has blocks 0 to 0"),
        (ReplaceSpec(layers=(0,), rule="median", threshold=4), "the model has no registers of its own"),
    ],
)
def test_groups_that_do_not_fit_are_refused(group: ReplaceSpec, message: str, tmp_path: Path) -> None:
    saved("SanaTransformer2DModel", tmp_path)
    with pytest.raises(ExportError, match=message):
        loaded(tmp_path, options=TINY["SanaTransformer2DModel"].options, replace=(group,))
