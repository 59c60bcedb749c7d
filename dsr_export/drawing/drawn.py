"""Drawing samples from a bundle with its own sampler."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.backends.base import Runner, as_denoiser
from dsr_export.backends.opening import Say
from dsr_export.backends.runtime_names import Runtime
from dsr_export.backends.steps import device_runner, stepping
from dsr_export.bundle.reader import Bundle
from dsr_export.config import BatchRange
from dsr_export.errors import ExportError
from dsr_export.parity.batch_calls import filled
from dsr_export.parity.golden.vectors import fitted_sampler, image_batch
from dsr_export.progress import Bar
from dsr_export.sampling import SamplerSpec, Step, fused_trajectory, seeded_noise, trajectory
from graphs.sampling.fused_step import ROWS

Array = npt.NDArray[Any]
Walking = Callable[[Array, Array], Iterable[Step]]
"""From noise and labels, step by step."""
Drawing = Callable[[Array, Array, Bar], Array]
"""From noise and labels to samples, with progress."""


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
    sampler = fitting_sampler(bundle, steps, guidance)
    labels = _labels(bundle, label, count)
    noise = seeded_noise(seed, count, bundle.manifest.input_specs()[0].with_batch(1)[1:])
    with drawing(bundle, sampler, runtime=runtime, say=say) as drawn:
        return drawn(noise, labels, progress)


@contextmanager
def drawing(bundle: Bundle, sampler: SamplerSpec, *, runtime: Runtime, say: Say | None = None) -> Iterator[Drawing]:
    """The bundle, opened to walk from any noise [n, C, H, W] and labels [n] to samples; the model is loaded once."""
    fused = has_step(bundle, sampler)
    with bundle.runner(runtime, say=say, step=fused) as runner:
        if say is not None and not fused and device_runner(runner) is not None:
            say(f"the state crosses the bus at every step: {_why_unfused(bundle)}")
        images = image_batch(bundle.manifest.batch_range(), sampler)
        yield partial(_in_batches, _walking(runner, sampler, fused), sampler, images)


def has_step(bundle: Bundle, sampler: SamplerSpec) -> bool:
    """Whether the bundle holds graphs of a whole step that this sampler takes: its own, or one of other length."""
    own = bundle.manifest.sampler_spec()
    if bundle.step_graph is None or own is None:
        return False
    made = fitted_sampler(own, bundle.manifest.batch_range())
    return (made.guidance == 1.0) == (sampler.guidance == 1.0) and sampler.num_steps <= ROWS + 1


def _why_unfused(bundle: Bundle) -> str:
    """What keeps the sampler's update, which numpy computes, off the GPU."""
    if bundle.step_graph is None:
        return "build with --fuse-step for one call a step, whose tensors stay on the GPU"
    return "the whole step in the bundle is made for other guidance, or fewer steps"


def _walking(runner: Runner, sampler: SamplerSpec, fused: bool) -> Walking:
    if fused:
        return partial(fused_trajectory, stepping(runner), sampler)
    return partial(trajectory, as_denoiser(runner), sampler)


def _in_batches(
    walking: Walking, sampler: SamplerSpec, images: BatchRange, noise: Array, labels: Array, progress: Bar
) -> Array:
    """Batches of `images`; a short last one is filled up with repeats and cut again."""
    calls, starts = sampler.num_steps - 1, range(0, len(noise), images.max)
    made = []
    for i, start in enumerate(starts):
        x, y = noise[start : start + images.max], labels[start : start + images.max]
        kept, fill = len(x), filled(len(x), images.min)
        state = x
        for step in walking(x[fill], y[fill]):
            state = step.state
            progress(i * calls + step.index + 1, len(starts) * calls)
        made.append(np.asarray(state)[:kept])  # off the GPU, where it stayed
    return np.concatenate(made)


def fitting_sampler(bundle: Bundle, steps: int | None, guidance: float | None) -> SamplerSpec:
    """The bundle's own with other `steps` or `guidance`, as its batches allow. Raises ExportError as `draw` does."""
    sampler = bundle.manifest.sampler_spec()
    if sampler is None:
        raise ExportError(f"{bundle.path} holds no denoiser, so there is nothing to sample")
    chosen = asked_sampler(sampler, steps, guidance)
    return fitted_sampler(chosen, bundle.manifest.batch_range())


def asked_sampler(sampler: SamplerSpec, steps: int | None, guidance: float | None) -> SamplerSpec:
    """`sampler` with other `steps` or `guidance`. ExportError for guidance of a model without a null label."""
    chosen = dataclasses.replace(
        sampler,
        num_steps=sampler.num_steps if steps is None else steps,
        guidance=sampler.guidance if guidance is None else guidance,
    )
    if chosen.guidance != 1.0 and chosen.null_label is None:
        raise ExportError("guidance needs a null label, and this model has none", hint="use --guidance 1")
    return chosen


def _labels(bundle: Bundle, label: int | None, count: int) -> Array:
    classes = int(bundle.manifest.model["num_classes"])
    if label is not None and label >= classes:
        raise ExportError(f"class {label} does not exist: the model has {classes}", hint=f"use 0 to {classes - 1}")
    return np.arange(count, dtype=np.int64) % max(classes, 1) if label is None else np.full(count, label, np.int64)
