"""Hooks and discovery on modules: planted neurons are found, exactly, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsr_export.diagnosis.discovery import DiscoverySettings, Scan, absolute_layer, scan
from dsr_export.diagnosis.models.tokens import FoundBlocks, watching
from dsr_export.diagnosis.neurons import table_of
from dsr_export.errors import ExportError
from tests.diagnosis.planted_vit import DEPTH, GRID, PLANTED, PlantedVit, mark_of, marked_images

SETTINGS = DiscoverySettings(detect_layer=-1, threshold=100.0, highest_layer=DEPTH - 1, top_k=3)


def found(images: np.ndarray, settings: DiscoverySettings = SETTINGS, seed: int = 0) -> Scan:
    vit = PlantedVit(seed).eval()
    return scan(FoundBlocks(vit), vit, (images[i : i + 1] for i in range(len(images))), settings)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_exactly_the_planted_neurons_are_found(seed: int) -> None:
    made = found(marked_images(9, seed=seed), seed=seed)
    assert table_of(made.scores.best(3, highest_layer=DEPTH - 1)) == PLANTED
    assert (made.images, made.images_with_outliers, made.outliers) == (9, 7, 7)
    planted, rest = np.split([n.score for n in made.scores.best(10, highest_layer=DEPTH - 1)], [3])
    assert planted.min() > 5 * max(rest, default=0.0)


def test_outliers_are_where_the_marks_are() -> None:
    made = found(marked_images(6))
    for i in range(6):
        above = np.flatnonzero(made.stats.peaks[DEPTH - 1, i] > SETTINGS.threshold).tolist()
        assert above == ([] if mark_of(i) is None else [mark_of(i)])
    assert made.stats.peaks.shape[2] == GRID**2  # CLS is no patch


def test_only_layers_up_to_the_highest_are_looked_at() -> None:
    settings = DiscoverySettings(detect_layer=-1, threshold=100.0, highest_layer=1, top_k=3)
    best = found(marked_images(4), settings).scores.best(1, highest_layer=1)
    assert table_of(best) == {1: PLANTED[1]}


def test_where_outliers_are_told_matters() -> None:
    early = DiscoverySettings(detect_layer=0, threshold=100.0, highest_layer=3, top_k=3)
    assert found(marked_images(4), early).outliers == 0  # the neurons have not fired yet


def test_images_without_marks_have_nothing_to_find() -> None:
    plain = np.random.default_rng(0).standard_normal((3, 3, 8, 8)).astype(np.float32)
    made = found(plain)
    assert made.outliers == 0
    assert made.scores.best(3, highest_layer=3) == ()


def test_watching_leaves_nothing_behind() -> None:
    vit, image = PlantedVit().eval(), torch.from_numpy(marked_images(1))
    before = vit(image)
    seen: list[tuple[int, tuple[int, ...]]] = []

    def note(layer: int, tokens: Tensor) -> None:
        seen.append((layer, tuple(tokens.shape)))

    with watching(FoundBlocks(vit), tokens=note, activations=note, activation_layers=[2]):
        assert torch.equal(vit(image), before)
    count = len(seen)
    vit(image)
    assert len(seen) == count == DEPTH + 1
    assert (2, (1, 17, 24)) in seen


def test_the_activations_of_a_gated_mlp_are_what_its_last_layer_reads() -> None:
    from dsr_export.families import load_subject

    module = load_subject(
        "rae-dit", random_weights=0, input_size=2, in_channels=4, hidden_size=16, depth=2, num_heads=2
    )
    read: dict[int, Tensor] = {}
    blocks = FoundBlocks(module.module)
    normed: list[Tensor] = []
    gated = blocks.block(1).get_submodule("mlp")
    handle = gated.register_forward_pre_hook(lambda _, args: normed.append(args[0]))
    with watching(blocks, tokens=lambda *_: None, activations=read.__setitem__, activation_layers=[1]):
        module.module(torch.randn(1, 4, 2, 2), torch.ones(1), torch.zeros(1, dtype=torch.long))
    handle.remove()
    gate, value = gated.get_submodule("w12")(normed[0]).chunk(2, dim=-1)
    assert torch.equal(read[1], F.silu(gate) * value)


def test_a_module_without_blocks_is_refused() -> None:
    with pytest.raises(ExportError, match="no list of transformer blocks"):
        FoundBlocks(nn.Sequential(nn.Linear(2, 2)))


@pytest.mark.parametrize("layer", [4, -5])
def test_a_layer_that_does_not_exist_is_refused(layer: int) -> None:
    with pytest.raises(ExportError, match="layers 0 to 3"):
        absolute_layer(layer, 4)


def test_images_are_walked_one_at_a_time() -> None:
    alive: list[int] = []

    def images() -> Iterator[np.ndarray]:
        for i in range(4):
            alive.append(i)
            yield marked_images(1)

    vit = PlantedVit().eval()
    done: list[int] = []
    scan(FoundBlocks(vit), vit, images(), SETTINGS, seen=lambda count: done.append(len(alive) - count))
    assert done == [0, 0, 0, 0]
