"""The calls that a pipeline's own walks make of its transformer: of prompts, or classes, guided as it is by itself."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, replace
from functools import cached_property
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.collect import Call, Progress
from calibration.sections import Sections
from dsr_export.config import BatchRange
from dsr_export.int8.data import chosen_units, rows_a_call
from dsr_export.limits import MOST_STEPS
from dsr_export.parity.batch_calls import in_batches
from dsr_export.pipelines.drawing import PROMPT_MASK, schedule
from dsr_export.progress import Silent
from dsr_export.subject import SubjectCard
from dsr_export.walks.asked import PipelineWalk
from dsr_export.walks.images import Images
from dsr_export.walks.torch_pipeline import Transformer, torch_pipeline

Array = npt.NDArray[Any]
_SAMPLES, _MASK = "/samples", "/mask"  # no inputs of a model, on their way through batches


@dataclass(frozen=True)
class PipelineWalks:
    """Every image from noise to latents, group by group; what one is does not depend on the groups.

    Text encoders are PyTorch's, in FP32 whatever the precision of a bundle's; they are loaded one at a time, and gone
    before the first call.
    """

    walk: PipelineWalk
    card: SubjectCard

    @property
    def sections(self) -> Sections:
        """Of groups of images that fit a call."""
        return Sections(len(self._starts))

    def drive(self, answer: Callable[[Call], Array], progress: Progress, only: Container[int] | None = None) -> None:
        """Raises ExportError where the model makes NaN, or the pipeline can't be walked."""
        groups = chosen_units(self.sections, only)
        wanted = [range(start, min(start + self._group, self._images.count)) for start in self._starts]
        prompts = [self._images.prompt(i) for group in groups for i in wanted[group]] if self._images.prompts else []
        calls = _Calls(answer, self._batch)
        transformer = Transformer(described=self.card, opened=lambda: calls, rows=2 * self._group)
        with torch_pipeline(self.walk.plan, self.walk.request, transformer, prompts, Silent()) as pipeline:
            times = schedule(pipeline.recipe, pipeline.scheduler, self._images.steps).timesteps
            count = calls.steps = len(times)
            told = replace(pipeline, told=calls.told)
            for done, group in enumerate(groups):
                calls.start(np.array(wanted[group]), self.sections.of(group))
                for step in told.walk(self._images.wish(pipeline.recipe, wanted[group])):
                    progress(done * count + step.index + 1, len(groups) * count)

    @cached_property
    def _images(self) -> Images:
        return self.walk.drawn(self.card)

    @cached_property
    def _group(self) -> int:
        return max(1, rows_a_call(self.card) // (2 if self.walk.recipe(self.card).guides else 1))

    @property
    def _starts(self) -> range:
        return range(0, self._images.count, self._group)

    @property
    def _batch(self) -> BatchRange:
        low, high = self.card.batch_limits
        most = max(2 * self._group, low) if high is None else high
        return BatchRange(low, low, most)


class _Calls:
    """A runner of the transformer that names the rows of each step, and asks for what it makes of them.

    Ids follow from image, guided or not, and step; a batch that takes more rows than there are has some twice.
    """

    name = "calibration"

    def __init__(self, answer: Callable[[Call], Array], batch: BatchRange) -> None:
        self._answer, self._batch = answer, batch
        self.steps = 1
        self.start(np.zeros(1, np.int64), 0)

    def start(self, images: Array, section: int) -> None:
        """What comes next are the calls of these images [n], from their first step on."""
        self._images, self._section, self._step = images, section, 0
        self._mask: Array | None = None

    def told(self, conditions: dict[str, Array]) -> None:
        """What does not change from step to step: which of the prompts' tokens are padding, where they are tokens."""
        self._mask = conditions.get(PROMPT_MASK)

    def __enter__(self) -> _Calls:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def infer(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """As `Runner.infer`, the first output alone: the rows of one step, those of nothing before the prompts'."""
        rows = len(next(iter(inputs.values())))
        copies = rows // len(self._images)
        image, copy = np.tile(self._images, copies), np.repeat(np.arange(copies), len(self._images))
        samples = (image * 2 + copy) * MOST_STEPS + self._step
        beside = {_SAMPLES: samples} if self._mask is None else {_SAMPLES: samples, _MASK: self._mask}
        made = in_batches(self._called, {**inputs, **beside}, self._batch)
        self._step += 1
        return made

    def _called(self, inputs: dict[str, Array]) -> dict[str, Array]:
        samples, mask = inputs.pop(_SAMPLES), inputs.pop(_MASK, None)
        progress = np.full(len(samples), self._step / max(self.steps - 1, 1))
        return {"out": self._answer(Call(inputs, samples, progress, self._section, prompt_mask=mask))}
