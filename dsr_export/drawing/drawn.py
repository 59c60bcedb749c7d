"""Drawing samples from a bundle with its own sampler."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.backends.base import Runner, as_denoiser
from dsr_export.backends.opening import Say
from dsr_export.backends.runtime_names import Runtime
from dsr_export.bundle.reader import Bundle
from dsr_export.errors import ExportError
from dsr_export.parity.batch_calls import filled
from dsr_export.parity.golden.vectors import fitted_sampler
from dsr_export.progress import Bar
from dsr_export.sampling import SamplerSpec, seeded_noise, trajectory

Array = npt.NDArray[Any]


def draw(
    bundle: Bundle,
    *,
    label: int | None,
    count: int,
    seed: int,
    steps: int | None,
    guidance: float | None,
    runtime: Runtime,
    progress: Bar,
    say: Say | None = None,
) -> Array:
    """`count` samples [count, C, H, W] float32 of class `label`, or of each class in turn; latents of a latent model.

    Raises:
        ExportError: the bundle is no denoiser, or the label does not exist.
    """
    sampler = _sampler(bundle, steps, guidance)
    labels = _labels(bundle, label, count)
    noise = seeded_noise(seed, count, bundle.manifest.input_specs()[0].with_batch(1)[1:])
    with bundle.runner(runtime, say=say) as runner:
        return _in_batches(runner, bundle, sampler, noise, labels, progress)


def _in_batches(
    runner: Runner, bundle: Bundle, sampler: SamplerSpec, noise: Array, labels: Array, progress: Bar
) -> Array:
    """The bundle's batch range bounds every call; a short last batch is filled up with repeats and cut again."""
    rows = 2 if sampler.guidance != 1.0 else 1
    batch = bundle.manifest.batch_range()
    size, least = max(1, batch.max // rows), -(-batch.min // rows)
    starts = range(0, len(noise), size)
    images = []
    for i, start in enumerate(starts):
        x, y = noise[start : start + size], labels[start : start + size]
        kept, fill = len(x), filled(len(x), least)
        state = x
        for step in trajectory(as_denoiser(runner), sampler, x[fill], y[fill]):
            state = step.state
            progress(i * (sampler.num_steps - 1) + step.index + 1, len(starts) * (sampler.num_steps - 1))
        images.append(state[:kept])
    return np.concatenate(images)


def _sampler(bundle: Bundle, steps: int | None, guidance: float | None) -> SamplerSpec:
    sampler = bundle.manifest.sampler_spec()
    if sampler is None:
        raise ExportError(f"{bundle.path} holds no denoiser, so there is nothing to sample")
    chosen = dataclasses.replace(
        sampler,
        num_steps=sampler.num_steps if steps is None else steps,
        guidance=sampler.guidance if guidance is None else guidance,
    )
    if chosen.guidance != 1.0 and chosen.null_label is None:
        raise ExportError("guidance needs a null label, and this model has none", hint="use --guidance 1")
    return fitted_sampler(chosen, bundle.manifest.batch_range())


def _labels(bundle: Bundle, label: int | None, count: int) -> Array:
    classes = int(bundle.manifest.model["num_classes"])
    if label is not None and label >= classes:
        raise ExportError(f"class {label} does not exist: the model has {classes}", hint=f"use 0 to {classes - 1}")
    return np.arange(count, dtype=np.int64) % max(classes, 1) if label is None else np.full(count, label, np.int64)
