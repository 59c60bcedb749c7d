"""Walks an encoder over images: the norms of its tokens, and the scores of its neurons on the outliers among them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, linalg

from dsr_export.diagnosis.measures.bins import LogBins
from dsr_export.diagnosis.measures.norms import NormStats
from dsr_export.diagnosis.models.tokens import TokenModel, watching
from dsr_export.diagnosis.neurons import NeuronScores
from dsr_export.errors import ExportError

Array = npt.NDArray[Any]
SHOWN = 6  # images with a column, hence a picture, of their own; the others share one


@dataclass(frozen=True, kw_only=True)
class DiscoverySettings:
    """`detect_layer` counts from the end where negative; `threshold` is an L2 norm; neurons lie in layers up to
    `highest_layer`; `rounds` of discovery, each on the encoder that the one before stabilised."""

    detect_layer: int
    threshold: float
    highest_layer: int
    top_k: int
    rounds: int = 1


class Scan:
    """What one pass over the images found; norms are absolute."""

    def __init__(self, model: TokenModel, settings: DiscoverySettings) -> None:
        self.scores = NeuronScores()
        self.images = 0
        self.outliers = 0
        self.norms: NormStats | None = None
        self.settings = settings
        self._model = model
        self._activations: dict[int, Array] = {}
        self._outliers: Array = np.zeros(0, bool)

    @property
    def stats(self) -> NormStats:
        """Norms by layer and column; raises ExportError before any image was seen."""
        if self.norms is None:
            raise ExportError("no tokens were seen", hint="the module's blocks are not run by its forward")
        return self.norms

    @property
    def images_with_outliers(self) -> int:
        return self.scores.images

    def see_tokens(self, layer: int, tokens: Tensor) -> None:
        norms = linalg.vector_norm(tokens.float(), dim=-1).numpy()  # [1, n]
        rows = self._model.patch_rows(norms.shape[1])
        known = np.where(np.isfinite(norms), norms, np.inf)
        patches, others = known[:, rows], np.delete(known, np.r_[rows], axis=1)
        if self.norms is None:
            bins = LogBins(self.settings.threshold)
            self.norms = NormStats(layers=self._model.depth, columns=SHOWN + 1, patches=patches.shape[1], bins=bins)
        self.norms.add(layer, min(self.images, SHOWN), patches, others)
        if layer == absolute_layer(self.settings.detect_layer, self._model.depth):
            self._outliers = np.zeros(norms.shape[1], bool)
            self._outliers[rows] = patches[0] > self.settings.threshold

    def see_activations(self, layer: int, values: Tensor) -> None:
        self._activations[layer] = values[0].float().numpy()

    def close_image(self) -> None:
        """Once every layer has run: earlier ones are scored on outliers that only show later."""
        self.scores.add(self._outliers, self._activations)
        self.outliers += int(self._outliers.sum())
        self.images += 1
        self._activations.clear()


def scan(
    model: TokenModel,
    run: Callable[[Tensor], Any],
    images: Iterable[Array],
    settings: DiscoverySettings,
    *,
    seen: Callable[[int], None] = lambda done: None,
) -> Scan:
    """Runs `run` on each image [1, 3, H, W], one at a time: the activations of one image are all that is held.

    Outliers are patch tokens; CLS and registers are none. Raises ExportError for layers that the model lacks.
    """
    absolute_layer(settings.detect_layer, model.depth)
    found = Scan(model, settings)
    scored = range(min(settings.highest_layer + 1, model.depth))
    with (
        watching(model, tokens=found.see_tokens, activations=found.see_activations, activation_layers=scored),
        torch.inference_mode(),
    ):
        for image in images:
            run(torch.from_numpy(image))
            found.close_image()
            seen(found.images)
    return found


def absolute_layer(layer: int, depth: int) -> int:
    """`layer` counted from 0. Raises ExportError where the model has none."""
    if not -depth <= layer < depth:
        raise ExportError(f"--detect-layer {layer}: the model has layers 0 to {depth - 1}", hint="-1 is the last")
    return layer % depth
