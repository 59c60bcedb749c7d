"""One walk of a denoiser's own sampler, with everything that diagnosis measures on the way."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, linalg

from dsr_export.backends.base import as_denoiser
from dsr_export.diagnosis.measures.attention import AttentionProbe, AttentionStats
from dsr_export.diagnosis.measures.bins import LogBins
from dsr_export.diagnosis.measures.norms import NormStats, relative_norms
from dsr_export.diagnosis.models.denoiser import DenoiserTokens
from dsr_export.diagnosis.models.tokens import watching
from dsr_export.diagnosis.threads import fitting_threads
from dsr_export.errors import ExportError
from dsr_export.progress import Bar
from dsr_export.sampling import SamplerSpec, seeded_noise, trajectory
from dsr_export.subject import Subject
from dsr_export.subjects.torch_runner import TorchRunner

Array = npt.NDArray[Any]
CHUNK = 8  # images at a time


@dataclass(frozen=True, kw_only=True)
class WalkSettings:
    """`images` samples, classes in turn, from seeded noise; `steps` model calls each."""

    images: int = 8
    steps: int = 10
    seed: int = 0


class Measured:
    """What one walk found; norms are multiples of the image's median. `replaced` counts tokens by layer of a site."""

    def __init__(self, model: DenoiserTokens, steps: int) -> None:
        self.norms = NormStats(layers=model.depth, columns=steps, patches=model.patches, bins=LogBins())
        self.attention = AttentionStats(model.depth)
        self.replaced: dict[int, int] = {}
        self.tokens = 0  # patch tokens that passed each layer
        self.step = 0
        self._model = model
        self._layer, self._rows = 0, 0

    def enter(self, layer: int, tokens: Tensor) -> None:
        self._layer, self._rows = layer, tokens.shape[1]

    def see_tokens(self, layer: int, tokens: Tensor) -> None:
        norms = linalg.vector_norm(tokens.float(), dim=-1).numpy()  # [B, n]
        self.norms.add(layer, self.step, *relative_norms(norms, self._model.patch_rows(norms.shape[1])))
        if layer == 0:
            self.tokens += len(norms) * self._model.patches

    def see_attention(self, shares: Array) -> None:
        """Keys beyond the sequence's rows, in front, are learned sinks."""
        self.attention.add(self._layer, shares[:, -self._rows :])

    def see_replaced(self, layer: int, which: Tensor) -> None:
        self.replaced[layer] = self.replaced.get(layer, 0) + int(which.sum())


def walk(subject: Subject, model: DenoiserTokens, settings: WalkSettings, bar: Bar) -> Measured:
    """Samples with the sites that `model` has at the moment.

    Under guidance, the rows without a label count like the others. Raises ExportError for a model without a sampler.
    """
    measured = Measured(model, settings.steps)
    denoiser = as_denoiser(TorchRunner(subject))
    starts = range(0, settings.images, CHUNK)
    with (
        fitting_threads(subject.module),
        watching(model, tokens=measured.see_tokens, entering=measured.enter),
        model.watching_sites(measured.see_replaced),
        AttentionProbe(measured.see_attention),
    ):
        for chunk, (noise, labels) in enumerate(_chunks(subject, settings)):
            measured.step = 0
            for step in trajectory(denoiser, shortened(subject, settings), noise, labels):
                measured.step = step.index + 1
                bar(chunk * settings.steps + measured.step, len(starts) * settings.steps)
    return measured


def shortened(subject: Subject, settings: WalkSettings) -> SamplerSpec:
    """The model's sampler with `settings.steps` model calls.

    Fewer calls than its own are spread evenly over time: a shifted grid of ten would end at t = 0.43 for 768 channels,
    and outliers are strongest near the image.
    """
    if subject.sampler is None:
        raise ExportError(f"{subject.name} has no sampler to walk", hint="diagnose takes denoisers and image encoders")
    spec = dataclasses.replace(subject.sampler, num_steps=settings.steps + 1)
    even = spec.num_steps < subject.sampler.num_steps
    return dataclasses.replace(spec, shift_dim=1, shift_base=1) if even else spec


def _chunks(subject: Subject, settings: WalkSettings) -> Iterator[tuple[Array, Array]]:
    shape = subject.inputs[0].with_batch(1)[1:]
    noise = seeded_noise(settings.seed, settings.images, shape)
    labels = np.arange(settings.images, dtype=np.int64) % max(subject.num_classes, 1)
    for start in range(0, settings.images, CHUNK):
        yield noise[start : start + CHUNK], labels[start : start + CHUNK]
