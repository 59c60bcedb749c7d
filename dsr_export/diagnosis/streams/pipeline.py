"""A pipeline's folder as `Pipeline` draws with it, its models in PyTorch: nothing is built."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dsr_export.config import BatchRange, ModelRequest
from dsr_export.diagnosis.streams.encoders import Facts, RememberingEncoder
from dsr_export.errors import ExportError
from dsr_export.pipelines.drawing import Pipeline
from dsr_export.pipelines.folder import INDEX
from dsr_export.pipelines.plan import ALL, PipelinePlan, plan_pipeline
from dsr_export.pipelines.prompting import encoded_prompts
from dsr_export.pipelines.table import recipe_of
from dsr_export.progress import Reporter
from dsr_export.storage.leftovers import scratch_folder
from dsr_export.subject import Subject
from dsr_export.subjects.torch_runner import TorchRunner

PART = "part"
CHUNK = 4  # images at a time; guidance doubles the rows


class TransformerFacts(Facts):
    """All images of a group at once, so that the rows of a call are those of the group."""

    def batch_range(self) -> BatchRange:
        return BatchRange(1, 2 * CHUNK, 2 * CHUNK)


class TorchModel:
    """A `PipelineModel` of a PyTorch transformer, and its text encoders."""

    def __init__(self, path: Path, subject: Subject, request: ModelRequest) -> None:
        self.path, self._subject, self._request = path, subject, request
        self.manifest = TransformerFacts(subject)
        self._encoders: dict[str, RememberingEncoder] = {}

    def runner(self, runtime: str = "auto", *, say: Any = None) -> TorchRunner:
        return TorchRunner(self._subject)

    def component(self, role: str) -> RememberingEncoder:
        if role not in self._encoders:
            part = {**self._request.options, PART: role}
            asked = dataclasses.replace(self._request, checkpoint=None, weights=None, dsr=None, options=part)
            self._encoders[role] = RememberingEncoder(self.path, asked)
        return self._encoders[role]


def is_pipeline(request: ModelRequest) -> bool:
    """Whether the whole pipeline is asked for, and not a part of it."""
    folder = request.model_dir
    return folder is not None and (folder / INDEX).is_file() and PART not in request.options


def planned(request: ModelRequest) -> PipelinePlan:
    """What the folder holds, checked before anything is loaded. ExportError as `plan_pipeline` raises it."""
    assert request.model_dir is not None  # `is_pipeline`
    random, other = request.random_weights is not None, request.checkpoint is not None
    return plan_pipeline(request.model_dir, (ALL,), request.options, random=random, other_transformer=other)


def sized(request: ModelRequest, plan: PipelinePlan) -> ModelRequest:
    """The request, with the sizes that the pipeline's prompts make."""
    return dataclasses.replace(request, options={**plan.options, **request.options})


@contextmanager
def torch_pipeline(
    plan: PipelinePlan, request: ModelRequest, subject: Subject, prompts: Sequence[str], said: Reporter
) -> Iterator[Pipeline]:
    """The pipeline around `subject`, its transformer, ready to draw; `request` is `sized`.

    `prompts`, and the absence of one, are encoded here, one encoder at a time.
    """
    recipe = recipe_of(plan.record.class_name, str(plan.folder.path))
    made = recipe(plan.record, subject.inputs, subject.config, subject.num_classes)
    with scratch_folder("diagnose") as scratch:
        for place, file in plan.files.items():
            (scratch / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, scratch / place)
        models, texts = TorchModel(scratch, subject, request), list(dict.fromkeys(prompts))
        if texts:
            with said.stage("encode"):
                negative = [False] * len(texts) + [True]
                encoded_prompts(models, made, [*texts, ""], negative=negative, runtime="auto", say=said.note)
        yield Pipeline(bundle=models, recipe=made, scheduler=plan.folder.scheduler())


def no_pipeline(subject: Subject) -> ExportError:
    """What is said of a denoiser that comes alone."""
    return ExportError(
        f"{subject.name} is a transformer without its pipeline, whose prompts and scheduler a diagnosis walks with",
        hint="give --model-dir the pipeline's folder, or the transformer's inputs: --inputs FILE.npz",
    )
