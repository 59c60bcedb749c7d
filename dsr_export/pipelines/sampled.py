"""Pictures of a whole pipeline's bundle, as `dsr-export sample` asks for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.backends.runtime_names import Runtime
from dsr_export.bundle.reader import Bundle
from dsr_export.errors import ExportError
from dsr_export.pipelines.drawing import Pipeline
from dsr_export.pipelines.pictures import pictures
from dsr_export.pipelines.wish import Wish
from dsr_export.progress import Reporter
from dsr_export.storage.atomic import atomic_file
from dsr_export.storage.output_target import check_target

Array = npt.NDArray[Any]
OF_CLASSES = 16


def draw_pictures(
    bundle: Bundle,
    *,
    label: int | None,
    prompts: tuple[str, ...],
    count: int | None,
    latents: Path | None,
    runtime: Runtime,
    shown: Reporter,
    **asked: Any,
) -> Array:
    """Pictures [n, H, W, 3] uint8: `count` of each prompt (one), or of the class `label`, or of each class in turn.

    `latents` is where the noise, the latents of every step and the pictures in floating point go as well, as npz:
    `noise` [n, C, h, w], `times` [steps], `latents` [steps, n, C, h, w], `images` [n, 3, H, W]. `asked` are fields of
    `Wish`. Raises ExportError as `Pipeline` does.
    """
    if latents is not None:
        check_target(latents)
    pipeline = Pipeline.of(bundle, runtime=runtime, say=shown.note)
    bundle.component("vae")  # not after minutes
    wish = Wish(**_subjects(pipeline, label, prompts, count), **asked)
    steps = []
    with shown.stage("sample") as bar:
        for step in pipeline.walk(wish):
            steps.append(step)
            bar(step.index + 1, step.count)
    with shown.stage("decode") as bar:
        images = pipeline.decode(steps[-1].latents, bar)
    if latents is not None:
        made = {"noise": pipeline.noise(wish), "images": images}
        made |= {"times": np.array([step.time for step in steps]), "latents": np.stack([s.latents for s in steps])}
        with atomic_file(latents) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, **made)  # type: ignore[arg-type]
    return pictures(images)


def _subjects(pipeline: Pipeline, label: int | None, prompts: tuple[str, ...], count: int | None) -> dict[str, Any]:
    """`prompts` or `labels` of a wish."""
    classes = pipeline.recipe.num_classes
    if prompts and label is not None:
        raise ExportError("--prompt and --class exclude each other", hint="give one of them")
    if prompts:
        return {"prompts": tuple(prompt for prompt in prompts for _ in range(count or 1))}
    if pipeline.recipe.roles:
        raise ExportError(f"{pipeline.bundle.path} draws what a prompt says", hint="give --prompt TEXT")
    number = OF_CLASSES if count is None else count
    return {"labels": tuple(i % max(classes, 1) if label is None else label for i in range(number))}
