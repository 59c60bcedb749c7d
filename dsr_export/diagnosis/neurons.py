"""Register-neuron discovery (arXiv 2506.08010): which MLP neurons light up on the outlier tokens, and hardly elsewhere.

Shapes: N tokens of one image, H MLP neurons of a layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Table = Mapping[int, tuple[int, ...]]
"""Layer -> sorted distinct neuron indices."""
QUIET = 0.5
"""A neuron counts only if at least half of an image's tokens activate below this."""


@dataclass(frozen=True)
class Neuron:
    """One neuron, and its mean |activation| over outlier tokens."""

    layer: int
    index: int
    score: float


class NeuronScores:
    """Sums over images; memory is one number per neuron."""

    def __init__(self) -> None:
        self.images = 0
        self._sums: dict[int, Array] = {}

    def add(self, outliers: Array, activations: Mapping[int, Array]) -> None:
        """One image: its outlier tokens, bool [N], and each layer's activations [N, H]. No outliers: it is left out."""
        if not outliers.any():
            return
        self.images += 1
        for layer, values in activations.items():
            score = image_score(outliers, values)
            self._sums[layer] = score if layer not in self._sums else self._sums[layer] + score

    def best(self, top_k: int, *, highest_layer: int) -> tuple[Neuron, ...]:
        """The `top_k` best of the layers up to `highest_layer`, best first; ties by layer and index.

        A neuron that is silent on outliers, or loud everywhere, is none however many are asked for.
        """
        layers = [layer for layer in sorted(self._sums) if layer <= highest_layer]
        if not layers:
            return ()
        scores = np.concatenate([self._sums[layer] for layer in layers]) / self.images
        owner = np.concatenate([np.full(len(self._sums[layer]), layer) for layer in layers])
        index = np.concatenate([np.arange(len(self._sums[layer])) for layer in layers])
        order = np.argsort(-scores, kind="stable")[:top_k]
        return tuple(Neuron(int(owner[i]), int(index[i]), float(scores[i])) for i in order if scores[i] > 0)


def image_score(outliers: Array, activations: Array) -> Array:
    """Mean |activation| over the outlier tokens of one image, [H]; 0 for neurons that are loud on most tokens."""
    size = np.abs(activations)
    sparse = (size < QUIET).mean(axis=0) >= 0.5
    return np.where(sparse, size[outliers].mean(axis=0, dtype=np.float64), 0.0)


def table_of(neurons: Sequence[Neuron]) -> Table:
    """Neurons as a table, layers ascending."""
    layers = sorted({neuron.layer for neuron in neurons})
    return {layer: tuple(sorted({n.index for n in neurons if n.layer == layer})) for layer in layers}


def merged(*tables: Table) -> Table:
    """The union: what recursive discovery ends with."""
    layers = sorted({layer for table in tables for layer in table})
    return {layer: tuple(sorted({i for table in tables for i in table.get(layer, ())})) for layer in layers}
