"""Samples of a bundle whose model says itself how it is sampled, through its decoder where it holds one."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.backends.runtime_names import Runtime
from dsr_export.bundle.reader import Bundle
from dsr_export.drawing.decoding import decode
from dsr_export.drawing.drawn import draw
from dsr_export.errors import ExportError
from dsr_export.images.finite import finite
from dsr_export.progress import Reporter

Array = npt.NDArray[Any]
COUNT = 16
_FLAGS = {"prompts": "--prompt", "negative": "--negative", "true_guidance": "--true-guidance", "latents": "--latents"}


def draw_samples(
    bundle: Bundle,
    *,
    label: int | None,
    count: int | None,
    seed: int,
    steps: int | None,
    guidance: float | None,
    runtime: Runtime,
    shown: Reporter,
    **of_pipelines: Any,
) -> Array:
    """`draw` of `count` images, 16 where it is not given, and `decode`, with progress: [n, C, H, W] float32.

    Raises ExportError as these do, for numbers that are none, and for what only pipelines have.
    """
    for name, value in of_pipelines.items():
        if value:
            message = f"{_FLAGS[name]} is for the bundle of a whole pipeline, and {bundle.path} is none"
            raise ExportError(message, hint="build one: --model-dir FOLDER --components all")
    asked = {"label": label, "count": COUNT if count is None else count, "seed": seed}
    with shown.stage("sample") as bar:
        options = {**asked, "steps": steps, "guidance": guidance}
        images = draw(bundle, **options, runtime=runtime, progress=bar, say=shown.note)  # type: ignore[arg-type]
    images = finite(images, "a sample", "model")
    if "decoder" in bundle.components:
        with shown.stage("decode") as bar:
            images = finite(
                decode(bundle, images, runtime=runtime, progress=bar, say=shown.note), "a picture", "decoder"
            )
    return np.asarray(images)
