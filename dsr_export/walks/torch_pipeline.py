"""A pipeline's folder as `Pipeline` draws with it: its text encoders in PyTorch, its transformer run by anything."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dsr_export.backends.base import Runner
from dsr_export.config import ModelRequest
from dsr_export.pipelines.drawing import Pipeline
from dsr_export.pipelines.folder import INDEX
from dsr_export.pipelines.plan import ALL, PipelinePlan, plan_pipeline
from dsr_export.pipelines.prompting import encoded_prompts
from dsr_export.pipelines.table import recipe_of
from dsr_export.progress import Reporter
from dsr_export.storage.leftovers import scratch_folder
from dsr_export.subject import Described
from dsr_export.walks.encoders import Facts, RememberingEncoder

PART = "part"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transformer:
    """The model that is walked: what is known of it, and what runs it, `rows` rows at a time and no more."""

    described: Described
    opened: Callable[[], Runner]
    rows: int


class WalkedModel:
    """A `PipelineModel`: the transformer, and the text encoders beside it. `request` names the pipeline."""

    def __init__(self, path: Path, transformer: Transformer, request: ModelRequest) -> None:
        self.path, self._transformer, self._request = path, transformer, request
        self.manifest = Facts(transformer.described, transformer.rows)
        self._encoders: dict[str, RememberingEncoder] = {}

    def runner(self, runtime: str = "auto", *, say: Any = None) -> Runner:
        return self._transformer.opened()

    def component(self, role: str) -> RememberingEncoder:
        if role not in self._encoders:
            self._encoders[role] = RememberingEncoder(self.path, of_part(self._request, role))
        return self._encoders[role]


def of_part(request: ModelRequest, role: str) -> ModelRequest:
    """Another part of the pipeline, of which nothing is said but what counts for all."""
    options = {**request.options, PART: role}
    return dataclasses.replace(request, checkpoint=None, weights=None, registers=None, dsr=None, options=options)


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
    plan: PipelinePlan, request: ModelRequest, transformer: Transformer, prompts: Sequence[str], said: Reporter
) -> Iterator[Pipeline]:
    """The pipeline around its transformer, ready to draw; `request` is `sized`.

    `prompts`, and the absence of one, are encoded here, one encoder at a time.
    """
    model = transformer.described
    recipe = recipe_of(plan.record.class_name, str(plan.folder.path))
    made = recipe(plan.record, model.inputs, model.config, model.num_classes)
    with scratch_folder("walk") as scratch:
        for place, file in plan.files.items():
            (scratch / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, scratch / place)
        models, texts = WalkedModel(scratch, transformer, request), list(dict.fromkeys(prompts))
        if texts:
            with said.stage("encode"):
                negative = [False] * len(texts) + [True]
                encoded_prompts(models, made, [*texts, ""], negative=negative, runtime="auto", say=said.note)
        yield Pipeline(bundle=models, recipe=made, scheduler=plan.folder.scheduler())
