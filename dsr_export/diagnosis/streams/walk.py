"""One walk of a pipeline's own sampler, or one pass over given inputs, with the norms of every stream's tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.collect import Call
from calibration.places import image_roles, text_roles
from dsr_export.diagnosis.streams.norms import RoleNorms
from dsr_export.diagnosis.streams.sites import Site, sites_of, watching
from dsr_export.families.diffusers.general.blocks import Block
from dsr_export.int8.data import Arrays
from dsr_export.pipelines.drawing import PROMPT_MASK, Pipeline
from dsr_export.progress import Bar
from dsr_export.subject import Subject, prompt_mask
from dsr_export.subjects.torch_runner import TorchRunner
from dsr_export.walks.images import Images

Array = npt.NDArray[Any]
CHUNK = 4  # images at a time; guidance doubles the rows
Drive = Callable[[Sequence[Block], "Measured", Bar], None]
"""Runs the model, with what it has behind its blocks at the moment, and tells what was measured there."""


@dataclass(frozen=True, kw_only=True)
class Walked:
    """What is walked: `images` of the `prompts` in turn (of classes, where there are none), `steps` of the schedule.

    With `inputs` (a folder or file), the rows in it instead, all of them as one step.
    """

    images: int
    steps: int = 1
    seed: int = 0
    prompts: tuple[str, ...] = ()
    inputs: str | None = None

    def __str__(self) -> str:
        if self.inputs is not None:
            return f"{self.images} rows of {self.inputs}"
        of = f"of {len(self.prompts)} prompts" if self.prompts else "of classes in turn"
        return f"{self.images} images {of}, {self.steps} steps of the pipeline's scheduler, seed {self.seed}"


class Measured:
    """What one walk found, by site; `times` are those of the schedule."""

    def __init__(self, blocks: Sequence[Block], grid: tuple[int, int, int]) -> None:
        self.norms: dict[Site, RoleNorms] = {site: RoleNorms() for site in sites_of(blocks)}
        self.times: dict[int, float] = {}
        self._grid, self._step = grid, 0
        self._mask: Array | None = None

    def start(self, conditions: dict[str, Array]) -> None:
        """Another group of images, from their first step on."""
        self._mask, self._step = conditions.get(PROMPT_MASK), 0

    def behind(self, step: int, time: float) -> None:
        """That step is done."""
        self.times[step], self._step = time, step + 1

    def see(self, site: Site, norms: Array) -> None:
        on_grid = np.broadcast_to(image_roles(self._grid, norms.shape[1]), norms.shape)
        roles = on_grid if site[1] == "image" else text_roles(self._mask, norms.shape)
        self.norms[site].add(self._step, norms, roles)

    def replaced(self, site: Site, count: int) -> None:
        self.norms[site].replaced += count


def walk(pipeline: Pipeline, walked: Walked, blocks: Sequence[Block], measured: Measured, bar: Bar) -> None:
    """Draws with the sites that the model has at the moment. Rows of the negative prompt count like the others."""
    told = dataclasses.replace(pipeline, told=measured.start)
    images = Images(count=walked.images, steps=walked.steps, seed=walked.seed, prompts=walked.prompts)
    groups = [images.wish(pipeline.recipe, range(i, i + CHUNK)) for i in range(0, walked.images, CHUNK)]
    with watching(blocks, measured.see):
        for done, wish in enumerate(groups):
            for step in told.walk(wish):
                measured.behind(step.index, step.time)
                bar(done * step.count + step.index + 1, len(groups) * step.count)


def walk_rows(subject: Subject, data: Arrays, blocks: Sequence[Block], measured: Measured, bar: Bar) -> None:
    """Calls the model with every row of `data`, whatever its time."""
    runner = TorchRunner(subject)
    mask = prompt_mask(subject.inputs)

    def answer(call: Call) -> Array:
        measured.start({} if mask is None else {PROMPT_MASK: call.inputs[mask]})
        return next(iter(runner.infer(call.inputs).values()))

    with watching(blocks, measured.see):
        data.drive(answer, bar)
    measured.behind(0, 0.0)
