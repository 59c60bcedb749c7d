"""The parts of a pipeline beside its transformer: each built as a bundle of its own, in a folder that goes again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from dsr_export.building.build import Build
from dsr_export.building.held_walk import UNWALKED
from dsr_export.bundle.destination import absolute, parts_folder
from dsr_export.bundle.reader import Bundle
from dsr_export.errors import ExportError
from dsr_export.pipelines.table import recipe_of
from dsr_export.sources.diffusers_folder import DiffusersFolderSource
from dsr_export.sources.pipeline_part import PipelinePartSource
from dsr_export.storage.disk import remove_tree
from dsr_export.storage.leftovers import undone
from dsr_export.subject import SubjectCard

Export = Callable[[Build], Bundle]


@contextmanager
def built_parts(build: Build, export: Export) -> Iterator[Mapping[str, Bundle]]:
    """Role -> the bundle of that part, there within the block; `export` makes a bundle of a build."""
    if build.part_builds:
        _check_files(build)
    with undone(partial(remove_tree, parts_folder(absolute(build.out)))):
        made: dict[str, Bundle] = {}
        for role, part in build.part_builds.items():
            batch = part.config.batch
            build.reporter.note(f"{role}: {part.config.precision}, batches of {batch.min} to {batch.max}")
            made[role] = export(part)
        yield made


def _check_files(build: Build) -> None:
    """The adapters and the weights of all parts: most of them are read behind the builds of others."""
    everyone = (build.source, *(part.source for part in build.part_builds.values()))
    sources = [each for each in everyone if isinstance(each, DiffusersFolderSource | PipelinePartSource)]
    for source in sources:
        source.check_adapters()
    for source in sources:
        source.check_weights()


def check_parts(build: Build, card: SubjectCard) -> None:
    """Raises ExportError where the traced transformer takes other prompts or latents than the parts were built for, or
    than those that it is calibrated on and held against."""
    plan = build.plan
    if plan is not None:
        recipe = recipe_of(plan.folder.class_name, str(plan.folder.path))
        recipe(plan.record, card.inputs, card.config, card.num_classes).check(plan.parts)
    if build.walk is None:
        return
    try:
        build.walk.check(card)
    except ExportError as error:
        if build.is_quantized:
            raise
        build.walk = None
        build.reporter.note(f"{UNWALKED}: {error.message}")
