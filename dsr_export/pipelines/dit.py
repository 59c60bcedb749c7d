"""DiT: classes in place of prompts."""

from __future__ import annotations

import numpy as np

from dsr_export.errors import ExportError
from dsr_export.pipelines.parts import PipelineSizes, TextPart, VaePart
from dsr_export.pipelines.recipe import Array, Recipe

SIDE, CHANNELS = 32, 4
NO_CLASS = 1000  # whatever the model's number of classes is


class DiT(Recipe):
    """`DiTPipeline`, arXiv 2212.09748."""

    names = ("DiTPipeline",)
    steps, guidance = 50, 4.0
    scaled = True

    @classmethod
    def text_parts(cls, sizes: PipelineSizes) -> tuple[TextPart, ...]:
        return ()

    @classmethod
    def vae_part(cls, sizes: PipelineSizes) -> VaePart:
        return sizes.vae(sizes.latent(SIDE), int(sizes.transformer.get("in_channels", CHANNELS)), shifted=False)

    def labels(self, labels: Array, *, null: bool) -> dict[str, Array]:
        classes = self.num_classes
        if null and classes < NO_CLASS:
            raise ExportError(
                f"guidance needs the class {NO_CLASS}, which stands for none, and the model has {classes}",
                hint="use --guidance 1",
            )
        wrong = labels[(labels < 0) | (labels >= classes)]
        if wrong.size:
            raise ExportError(
                f"class {wrong[0]} does not exist: the model has {classes}", hint=f"use 0 to {classes - 1}"
            )
        return {"y": np.full_like(labels, NO_CLASS) if null else labels}

    @property
    def guides(self) -> bool:
        """Not where the model has no class that stands for none."""
        return self.num_classes >= NO_CLASS

    @property
    def latent(self) -> tuple[int, ...]:
        return self.shapes["x"]
