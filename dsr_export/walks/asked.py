"""`PipelineWalk`: the walk of a pipeline that its transformer is calibrated on, and held against, planned before
anything long starts."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from dsr_export.config import ModelRequest
from dsr_export.declarations.int8_options import GIVE, MAX_IMAGES, TRAJECTORY, Int8Options
from dsr_export.errors import ExportError
from dsr_export.pipelines.drawing import schedule
from dsr_export.pipelines.plan import PipelinePlan
from dsr_export.pipelines.prompt_file import read_prompts
from dsr_export.pipelines.recipe import Recipe
from dsr_export.pipelines.table import recipe_of
from dsr_export.sources import find_source
from dsr_export.subject import SubjectCard
from dsr_export.walks.images import Images
from dsr_export.walks.shipped_prompts import SHIPPED
from dsr_export.walks.torch_pipeline import is_pipeline, of_part, planned, sized

_ALONE = f"{GIVE}, or --model-dir the whole pipeline's folder"
SEED = 20_260_610
HELD_OUT = 2  # images of a walk that nothing is calibrated on, and prompts that are shipped for it
FEW_STEPS = 6  # of a model that a CPU takes minutes for, and where nothing is calibrated on them


@dataclass(kw_only=True)
class PipelineWalk:
    """The pipeline of the transformer that `request` asks for, `sized`.

    `images` of `prompts` in turn (of classes, where it takes none), `steps` of its scheduler each; None: as many as
    the pipeline takes, and a few of a large model, or of all where `few`. `last_prompts` are those of `held_out`.
    """

    plan: PipelinePlan
    request: ModelRequest
    prompts: tuple[str, ...]
    last_prompts: tuple[str, ...]
    images: int
    steps: int | None
    few: bool = False

    def stage_key(self) -> dict[str, Any]:
        """JSON values that stand for all of it, encoders and tokenizers by content; these are read once."""
        prompts = {"prompts": list(self.prompts), "last_prompts": list(self.last_prompts)}
        return {**self._files, **prompts, "images": self.images, "steps": self.steps, "few": self.few}

    @cached_property
    def _files(self) -> dict[str, Any]:
        roles = self.plan.record.text
        parts = {role: find_source(of_part(self.request, role)).key() for role in roles}
        return {"pipeline": self.plan.key(), "encoders": parts}

    def check(self, card: SubjectCard) -> None:
        """Raises ExportError where the traced transformer takes other prompts or latents than the pipeline makes, or
        the scheduler not as many steps."""
        made = self.recipe(card)
        try:
            made.check(self.plan.parts)
            schedule(made, self.plan.folder.scheduler(), self.drawn(card).steps)
        except ExportError as error:
            if self.few:
                raise
            raise _unwalked(error) from error

    def recipe(self, card: SubjectCard) -> Recipe:
        """What the pipeline does around the model of `card`."""
        made = recipe_of(self.plan.record.class_name, str(self.plan.folder.path))
        return made(self.plan.record, card.inputs, card.config, card.num_classes)

    def drawn(self, card: SubjectCard) -> Images:
        """What is drawn with that model."""
        own = self.recipe(card).steps
        steps = self.steps or (min(FEW_STEPS, own) if card.is_large or self.few else own)
        return Images(count=self.images, steps=steps, seed=SEED, prompts=self.prompts)

    def held_out(self, card: SubjectCard) -> Images:
        """Of the last prompts, and of other noise: what a quantised model is held against."""
        count = 1 if card.is_large else HELD_OUT
        return replace(self.drawn(card), count=count, seed=SEED + 1, prompts=self.last_prompts[:count])

    def told(self, card: SubjectCard) -> dict[str, Any]:
        """JSON values for the calibration table, beside what was asked for."""
        drawn = self.drawn(card)
        told = {"pipeline": self.plan.record.class_name, "images": drawn.count, "steps": drawn.steps}
        return {**told, **({"prompts": list(self.prompts)} if self.prompts else {})}


def pipeline_walk(asked: ModelRequest, options: Int8Options) -> PipelineWalk | None:
    """The walk of the pipeline in `asked.model_dir`, where `options` ask for one; None where they ask for other data.

    Raises:
        ExportError: prompts for what takes none, a file of them that can't be read, a pipeline that is not known here
            or not whole, or a folder of diffusers with a part alone, which has no sampler either.
    """
    file = options.prompts_path
    if options.tables or not (options.data == TRAJECTORY or file is not None):
        return None
    if not is_pipeline(asked):
        if file is not None:
            raise ExportError(f"--calibration {file} holds prompts, and no pipeline is built", hint=GIVE)
        if asked.model_dir is not None:
            message = f"{asked.model_dir} is no pipeline, so there are no trajectories to calibrate with"
            raise ExportError(message, hint=_ALONE)
        return None
    given = None if file is None else read_prompts(file, option="--calibration")
    try:
        plan = planned(asked)
    except ExportError as error:
        raise _unwalked(error) from error
    images = max(options.images, len(given or ()))
    prompts = _prompts(plan, given, file)
    return PipelineWalk(
        plan=plan,
        request=sized(_model_of(asked), plan),
        prompts=prompts[:images],
        last_prompts=prompts[-HELD_OUT:],
        images=images,
        steps=options.steps,
    )


def unquantised_walk(asked: ModelRequest) -> PipelineWalk:
    """A few steps of the pipeline in `asked.model_dir` with prompts that are shipped, which nothing is calibrated on.

    Raises ExportError for a pipeline that is not known here, or not whole.
    """
    plan = planned(asked)
    prompts = _prompts(plan, None, None)[-HELD_OUT:]
    request = sized(_model_of(asked), plan)
    return PipelineWalk(
        plan=plan, request=request, prompts=prompts, last_prompts=prompts, images=HELD_OUT, steps=None, few=True
    )


def _model_of(asked: ModelRequest) -> ModelRequest:
    return ModelRequest(**{each.name: getattr(asked, each.name) for each in fields(ModelRequest)})


def _unwalked(error: ExportError) -> ExportError:
    """The transformer alone could be built."""
    hint = f"{error.hint}; or {GIVE}" if error.hint else GIVE
    return ExportError(f"calibration walks the whole pipeline: {error.message}", hint=hint)


def _prompts(plan: PipelinePlan, given: tuple[str, ...] | None, file: Path | None) -> tuple[str, ...]:
    """Those given, each of which is drawn; else those that are shipped."""
    name = plan.record.class_name
    if not plan.record.text:
        if given is not None:
            raise ExportError(f"--calibration {file} holds prompts, and {name} takes classes", hint="leave it out")
        return ()
    if given is not None and len(given) > MAX_IMAGES:
        raise ExportError(f"{file} holds {len(given)} prompts, and each is drawn", hint=f"give up to {MAX_IMAGES}")
    return SHIPPED if given is None else given
