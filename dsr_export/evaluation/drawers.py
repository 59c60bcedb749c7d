"""What draws pictures to be judged: a bundle in a runtime, or the PyTorch module that it was made from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.backends.base import as_denoiser
from dsr_export.backends.runtime_names import Runtime
from dsr_export.bundle.reader import Bundle
from dsr_export.drawing.decoding import decode_with
from dsr_export.drawing.drawn import asked_sampler, drawing, fitting_sampler
from dsr_export.errors import ExportError
from dsr_export.evaluation.parts import Part
from dsr_export.images.finite import finite
from dsr_export.pipelines.drawing import Pipeline
from dsr_export.pipelines.pictures import pictures
from dsr_export.pipelines.wish import Wish
from dsr_export.progress import Bar, Reporter
from dsr_export.sampling import SamplerSpec, sample, seeded_noise
from dsr_export.subject import Subject
from dsr_export.subjects.torch_runner import TorchRunner

Array = npt.NDArray[Any]
Drawer = Callable[[Part], Array]
"""The pictures of a part, [n, H, W, C] uint8, C 1 or 3."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What is drawn: image i from the noise of `seed` and i, of class i or prompt i, which start over at their end."""

    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    prompts: tuple[str, ...] = ()

    def labels(self, part: Part, classes: int) -> Array:
        """Requested classes [n] int64."""
        return np.arange(part.first, part.first + part.count, dtype=np.int64) % max(classes, 1)

    def texts(self, part: Part) -> tuple[str, ...]:
        """The prompts of a part."""
        return tuple(self.prompts[i % len(self.prompts)] for i in range(part.first, part.first + part.count))


@contextmanager
def bundle_drawer(bundle: Bundle, drawn: Drawn, *, runtime: Runtime, shown: Reporter) -> Iterator[Drawer]:
    """Draws with a bundle; a denoiser's model is loaded once.

    Raises:
        ExportError: it makes no pictures, takes no prompts or only prompts, or can't run here.
    """
    if bundle.manifest.pipeline is not None:
        yield _pipeline_drawer(bundle, drawn, runtime, shown)
        return
    _check_no_prompts(bundle, drawn)
    sampler = fitting_sampler(bundle, drawn.steps, drawn.guidance)
    shape, classes = bundle.manifest.input_specs()[0].with_batch(1)[1:], int(bundle.manifest.model["num_classes"])
    decoder = decoder_of(bundle)
    _check_pictures(str(bundle.path), shape[0], decoder)
    with drawing(bundle, sampler, runtime=runtime, say=shown.note) as walked:
        walk = partial(_walked, lambda noise, labels: walked(noise, labels, _unseen))
        yield partial(_of_denoiser, walk, _Of(shape, classes, decoder, runtime), drawn)


def decoder_of(bundle: Bundle) -> Bundle | None:
    """The decoder in `bundle`, if there is one."""
    return bundle.components.get("decoder")


@contextmanager
def torch_drawer(subject: Subject, drawn: Drawn, *, decoder: Bundle | None, runtime: Runtime) -> Iterator[Drawer]:
    """Draws with the PyTorch module in FP32, as it is sampled; latents go through the bundle `decoder`.

    Raises:
        ExportError: it is no denoiser, makes latents and there is no decoder, or takes no guidance.
    """
    if subject.sampler is None:
        raise ExportError(f"{subject.name} is no denoiser, and draws nothing")
    sampler = asked_sampler(subject.sampler, drawn.steps, drawn.guidance)
    shape = subject.inputs[0].with_batch(1)[1:]
    _check_pictures(subject.name, shape[0], decoder)
    with TorchRunner(subject) as runner:
        walk = partial(_walked, partial(_sampled, runner, sampler))
        yield partial(_of_denoiser, walk, _Of(shape, subject.num_classes, decoder, runtime), drawn)


def _sampled(runner: TorchRunner, sampler: SamplerSpec, noise: Array, labels: Array) -> Array:
    return sample(as_denoiser(runner), sampler, noise, labels)


def _walked(walk: Callable[[Array, Array], Array], noise: Array, labels: Array) -> Array:
    return finite(walk(noise, labels), "a sample", "model")


@dataclass(frozen=True)
class _Of:
    """A denoiser: the shape of what it walks over [C, H, W], its classes, and what makes pictures of latents."""

    shape: tuple[int, ...]
    classes: int
    decoder: Bundle | None
    runtime: Runtime


def _of_denoiser(walk: Callable[[Array, Array], Array], of: _Of, drawn: Drawn, part: Part) -> Array:
    noise = seeded_noise(drawn.seed, part.count, of.shape, first=part.first)
    images = walk(noise, drawn.labels(part, of.classes))
    if of.decoder is not None:
        images = finite(decode_with(of.decoder, images, runtime=of.runtime, progress=_unseen), "a picture", "decoder")
    return pictures(images)


def _pipeline_drawer(bundle: Bundle, drawn: Drawn, runtime: Runtime, shown: Reporter) -> Drawer:
    bundle.component("vae")
    pipeline = Pipeline.of(bundle, runtime=runtime, say=shown.note)
    if pipeline.recipe.roles and not drawn.prompts:
        raise ExportError(f"{bundle.path} draws what a prompt says", hint="give --prompts FILE, one prompt a line")
    if not pipeline.recipe.roles:
        _check_no_prompts(bundle, drawn)
    return partial(_of_pipeline, pipeline, drawn)


def _of_pipeline(pipeline: Pipeline, drawn: Drawn, part: Part) -> Array:
    asked: dict[str, Any] = {"steps": drawn.steps, "guidance": drawn.guidance, "seed": drawn.seed}
    if pipeline.recipe.roles:
        asked["prompts"] = drawn.texts(part)
    else:
        asked["labels"] = tuple(int(each) for each in drawn.labels(part, pipeline.recipe.num_classes))
    latents = None
    for step in pipeline.walk(Wish(**asked, first=part.first)):
        latents = step.latents
    assert latents is not None  # a walk has a step
    return pictures(pipeline.decode(latents))


def _check_no_prompts(bundle: Bundle, drawn: Drawn) -> None:
    if drawn.prompts:
        raise ExportError(f"{bundle.path} draws classes, and takes no prompts", hint="leave --prompts away")


def _check_pictures(name: str, channels: int, decoder: Bundle | None) -> None:
    if decoder is None and channels not in (1, 3):
        raise ExportError(
            f"{name} makes latents of {channels} channels, and figures are of pictures",
            hint="build the bundle with its decoder: --component DECODER.dsr",
        )


_unseen: Bar = lambda done, total: None  # noqa: E731
