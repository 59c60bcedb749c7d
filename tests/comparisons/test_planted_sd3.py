"""A planted text-to-image transformer: it has the outliers that it is said to have, and INT8 bears them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from calibration.methods import METHODS, OUTLIER_AWARE
from dsr_export.backends.onnxruntime import OnnxRuntimeRunner
from dsr_export.parity.metrics import compare
from graphs.artifacts import OptimizedModel
from graphs.observe.probes import add_outputs
from tests.comparisons.models import Graph, graph_of
from tests.comparisons.ours import measure, quantised
from tests.comparisons.planted_sd3 import (
    GRID,
    MASSIVE,
    MASSIVE_BLOCK,
    PADDING,
    calls,
    plant_channels,
    planted_sd3,
)

PER_TENSOR = ("minmax", "mse")
MARGIN_DB = 6.0
CORNERS = (0, GRID - 1, GRID * (GRID - 1), GRID * GRID - 1)


@pytest.fixture(scope="module")
def subject() -> Any:
    pytest.importorskip("diffusers", reason="the models extra is not installed")
    return planted_sd3()


def test_corners_and_padding_are_sinks_in_every_block(subject: Any) -> None:
    (call,) = calls(subject, seed=3, count=1)
    blocks = list(subject.module.transformer.transformer_blocks)
    seen: list[tuple[Any, ...]] = []
    hidden: list[torch.Tensor] = []
    hooks = [block.register_forward_hook(lambda _, __, output: seen.append(output)) for block in blocks]
    mlp = blocks[MASSIVE_BLOCK].ff.net[2]
    hooks.append(mlp.register_forward_pre_hook(lambda _, args: hidden.append(args[0])))
    with subject.reference() as runner:
        runner.infer(call.inputs)
    for hook in hooks:
        hook.remove()
    for text, image in seen:
        _apart(image, np.isin(np.arange(GRID * GRID), CORNERS))
        if text is not None:
            _apart(text, (call.inputs["encoder_hidden_states"] == PADDING).all(-1))
    massive = hidden[0][..., list(MASSIVE)].abs().amax((0, 2)).numpy()
    assert massive[list(CORNERS)].min() > 5 * np.delete(massive, CORNERS).max()


def _apart(tokens: torch.Tensor, planted: np.ndarray) -> None:
    norms = tokens.norm(dim=-1).numpy()
    planted = np.broadcast_to(planted, norms.shape)
    assert norms[planted].min() > 3 * norms[~planted].max()


def test_outlier_channels_do_not_change_what_the_model_computes(subject: Any) -> None:
    (call,) = calls(subject, seed=3, count=1)
    with subject.reference() as runner:
        before = runner.infer(call.inputs)["out"]
    again = planted_sd3()
    for block in again.module.transformer.transformer_blocks:  # type: ignore[union-attr]
        plant_channels(block, again.module.transformer.inner_dim)  # type: ignore[union-attr, arg-type]
    with again.reference() as runner:
        after = runner.infer(call.inputs)["out"]
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-3 * np.abs(before).max())


@pytest.fixture(scope="module")
def calibrated(subject: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Graph, Any]:
    """The graph and its statistics."""
    graph = graph_of(subject, tmp_path_factory.mktemp("planted"))
    return graph, measure(graph, calls(subject, seed=1, count=6))


@pytest.mark.slow
def test_int8_is_six_decibels_better_than_per_tensor_int8(
    subject: Any, calibrated: tuple[Graph, Any], tmp_path: Path
) -> None:
    """The same GEMMs, the same calibration, held-out prompts, latents and times; the worst row of the output."""
    (graph, stats), held = calibrated, calls(subject, seed=2, count=3)
    with graph.runner() as runner:
        truth = [runner.infer(call.inputs)["out"] for call in held]
    worst: dict[str, float] = {}
    for recipe in (OUTLIER_AWARE, *(METHODS[name] for name in PER_TENSOR)):
        made = quantised(graph, stats, recipe, tmp_path / "int8.onnx")
        with OnnxRuntimeRunner(made, inputs=graph.card.inputs, optimize=False) as runner:
            found = [compare(out, runner.infer(call.inputs)["out"]) for call, out in zip(held, truth, strict=True)]
        assert all(each.problem is None for each in found)
        worst[recipe.name] = min(float(each.snr_db or 0) for each in found)
    assert worst[OUTLIER_AWARE.name] > 20
    assert worst[OUTLIER_AWARE.name] >= max(worst[name] for name in PER_TENSOR) + MARGIN_DB, worst


BLOCK = "transformer.transformer_blocks.1"
TOKENS = {"image": f"{BLOCK}/Add_3", "text": f"{BLOCK}/Add_7"}
"""What the block hands on of either stream."""


@pytest.mark.slow
def test_row_factors_spare_the_other_tokens_whatever_role_the_sinks_have(
    subject: Any, calibrated: tuple[Graph, Any], tmp_path: Path
) -> None:
    """Corners cost the picture's other tokens, and padding the prompt's: SNR by role, with row factors and without."""
    (graph, stats), held = calibrated, calls(subject, seed=2, count=3)
    truth = _tokens(graph, graph.path, held, tmp_path)
    padding = np.concatenate([(call.inputs["encoder_hidden_states"] == PADDING).all(-1) for call in held])
    corners = np.broadcast_to(np.isin(np.arange(GRID * GRID), CORNERS), truth["image"].shape[:2])
    roles = {"corner": ("image", corners), "other": ("image", ~corners)}
    roles |= {"padding": ("text", padding), "prompt": ("text", ~padding)}
    found = {}
    for recipe in (OUTLIER_AWARE, dataclasses.replace(OUTLIER_AWARE, rows=False)):
        made = _tokens(graph, quantised(graph, stats, recipe, tmp_path / "int8.onnx"), held, tmp_path)
        found[recipe.rows] = {role: _snr(truth[of][at], made[of][at]) for role, (of, at) in roles.items()}
    for role, with_rows in found[True].items():
        assert with_rows > found[False][role] + MARGIN_DB, found


def _tokens(graph: Graph, model: Path, held: Any, folder: Path) -> dict[str, np.ndarray]:
    """Stream -> its tokens behind the block, [rows, n, D]."""
    tapped = add_outputs(OptimizedModel(path=model), folder / "tapped.onnx", list(TOKENS.values()))
    with OnnxRuntimeRunner(tapped, inputs=graph.card.inputs, optimize=False) as runner:
        made = [runner.infer(call.inputs) for call in held]
    return {stream: np.concatenate([each[name] for each in made]) for stream, name in TOKENS.items()}


def _snr(truth: np.ndarray, made: np.ndarray) -> float:
    return float(10 * np.log10(np.square(truth).sum() / np.square(made - truth).sum()))
