"""What a build makes of a pipeline's folder: checked whole before anything long starts. Needs no torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dsr_export.bundle.pipeline_record import SCHEDULER as SCHEDULER_FILE
from dsr_export.bundle.pipeline_record import PipelineRecord, TextRecord, VaeRecord, tokenizer_folder
from dsr_export.errors import ExportError, did_you_mean
from dsr_export.families.diffusers.files import STEMS
from dsr_export.families.diffusers.vae_folder import CLASSES as VAE_CLASSES
from dsr_export.families.digests import file_sha256
from dsr_export.families.folder_weights import weight_files
from dsr_export.families.text_encoders.folder import CLASSES as TEXT_CLASSES
from dsr_export.families.text_encoders.folder import STEMS as TEXT_STEMS
from dsr_export.pipelines.folder import INDEX, SCHEDULER, TRANSFORMER, VAE_ENCODER, VAES, PipelineFolder, open_pipeline
from dsr_export.pipelines.parts import PipelineSizes, TextPart, VaePart
from dsr_export.pipelines.recipe import Recipe
from dsr_export.pipelines.table import recipe_of
from dsr_export.pipelines.tokenizer_files import tokenizer_files
from dsr_export.prompts import PromptTokenizer
from dsr_export.samplers import sampler_from_config

ALL = "all"
Part = TextPart | VaePart


@dataclass(frozen=True, kw_only=True)
class PipelinePlan:
    """`parts` become models beside the transformer, by role; `files` lie beside them, by their place in the bundle.

    `options` are sizes that the transformer is built for.
    """

    folder: PipelineFolder
    parts: Mapping[str, Part]
    record: PipelineRecord
    files: Mapping[str, Path]
    options: Mapping[str, int]

    @property
    def encodes_all(self) -> bool:
        """Whether what the transformer takes can be made with the parts: its prompts, if it takes any."""
        return bool(self.record.text) or not recipe_of(self.folder.class_name, str(self.folder.path)).roles

    def key(self) -> dict[str, Any]:
        """JSON values that stand for all but the parts' own configurations and weights."""
        return {"record": asdict(self.record), "files": {name: file_sha256(path) for name, path in self.files.items()}}


def plan_pipeline(
    path: Path, chosen: Sequence[str], options: Mapping[str, Any], *, random: bool, other_transformer: bool
) -> PipelinePlan:
    """What is to be built of the pipeline in `path`: the parts `chosen` (`all`, or roles), at the sizes in `options`.

    With `random`, nobody looks for weights, and with `other_transformer` not for the transformer's. Raises
    ExportError, one for each fault: no pipeline, an unknown class of it or of a part, a part that is missing, a
    tokenizer without its files, an unknown scheduler, and parts that do not fit each other.
    """
    folder = open_pipeline(path)
    recipe = recipe_of(folder.class_name, str(path / INDEX))
    sizes = PipelineSizes(folder, options)
    parts = _chosen(folder, recipe, sizes, chosen)
    for role in (TRANSFORMER, *parts):
        _check_part(folder, role, weights=not (random or (role == TRANSFORMER and other_transformer)))
    _check_scheduler(folder)
    texts = {role: part for role, part in parts.items() if isinstance(part, TextPart)}
    files = {SCHEDULER_FILE: folder.scheduler_file()}
    for part in texts.values():
        files |= _tokenizer(folder, part.tokenizer)
    record = _record(folder, recipe, sizes, parts)
    told = recipe.options(sizes) if texts else {}
    return PipelinePlan(folder=folder, parts=parts, record=record, files=files, options=told)


def _chosen(
    folder: PipelineFolder, recipe: type[Recipe], sizes: PipelineSizes, chosen: Sequence[str]
) -> dict[str, Part]:
    known = [*(role for role in recipe.roles if role in folder.classes), *VAES]
    for name in chosen:
        if name not in (ALL, TRANSFORMER, *known):
            listed = f"its parts: {', '.join((TRANSFORMER, *known))}, or {ALL}"
            near = did_you_mean(name, (ALL, TRANSFORMER, *known))
            raise ExportError(
                f"the pipeline in {folder.path} has no part '{name}'", hint=f"{near} {listed}" if near else listed
            )
    wanted = [role for role in known if role in chosen or (ALL in chosen and role != VAE_ENCODER)]
    texts = _texts(folder, recipe, sizes, recipe.roles if ALL in chosen else wanted)
    vaes = {role: replace(recipe.vae_part(sizes), encodes=role == VAE_ENCODER) for role in VAES if role in wanted}
    return {role: vaes[role] if role in vaes else texts[role] for role in wanted}


def _texts(
    folder: PipelineFolder, recipe: type[Recipe], sizes: PipelineSizes, wanted: Collection[str]
) -> dict[str, TextPart]:
    """All text encoders of the pipeline by role, where any is wanted: a prompt goes through each of them."""
    if not set(recipe.roles) & set(wanted):
        return {}
    texts = {part.role: part for part in recipe.text_parts(sizes)}
    for role in texts:
        if role not in folder.classes:
            hint = "save it with its text encoders, or name the parts: --components vae"
            raise ExportError(f"the pipeline in {folder.path} has no {role}, and takes prompts through it", hint=hint)
        if role not in wanted:
            raise ExportError(
                f"a prompt goes through {role} as well, which is not chosen", hint="name them all, or all"
            )
    return texts


def _check_part(folder: PipelineFolder, role: str, *, weights: bool) -> None:
    """It has a configuration, weights, and a class that is known here (the transformer's is looked at elsewhere)."""
    folder.config(role)
    found = folder.class_of(role)
    known = {**dict.fromkeys(VAES, VAE_CLASSES), TRANSFORMER: (found,)}.get(role, TEXT_CLASSES)
    if found not in known:
        raise ExportError(
            f"{folder.part(role)} is a {found[:80]}, which is none of the classes known here",
            hint=f"known: {', '.join(known)}",
        )
    stems = STEMS if role in (*VAES, TRANSFORMER) else TEXT_STEMS
    if weights and not weight_files(folder.part(role), stems):
        from dsr_export.checkpoints.absent_weights import no_weights  # which brings torch along

        path = folder.part(role)
        hint = "save the pipeline again, or give --random-weights SEED to try out the architecture"
        raise no_weights(path, f"{path} holds no weights", hint=hint)


def _check_scheduler(folder: PipelineFolder) -> None:
    """It is known here, and of the class that diffusers loads it as, whatever class the file is of."""
    found, loaded = folder.scheduler(), folder.class_of(SCHEDULER)
    sampler_from_config(found)
    if found["_class_name"] != loaded:
        raise ExportError(
            f"{folder.scheduler_file()} is of a {found['_class_name']}, and {INDEX} names a {loaded[:80]}",
            hint="load the pipeline with diffusers, which takes the second, and save it again",
        )


def _tokenizer(folder: PipelineFolder, name: str) -> dict[str, Path]:
    """The files of a tokenizer that can be read: it is read here, so that no build ends in one that can't be."""
    path = folder.part(name)
    files = tokenizer_files(path)
    PromptTokenizer.from_folder(path)
    return {f"{tokenizer_folder(name)}/{file.name}": file for file in files}


def _record(
    folder: PipelineFolder, recipe: type[Recipe], sizes: PipelineSizes, parts: Mapping[str, Part]
) -> PipelineRecord:
    texts = {role: part for role, part in parts.items() if isinstance(part, TextPart)}
    vae = next((part for part in parts.values() if isinstance(part, VaePart)), None)
    return PipelineRecord(
        class_name=folder.class_name,
        text={role: TextRecord(tokenizer=part.tokenizer, tokens=part.reads.tokens) for role, part in texts.items()},
        vae=None
        if vae is None
        else VaeRecord(scaling_factor=vae.scaling_factor, shift_factor=vae.shift_factor, scale=vae.scale),
        settings=recipe.settings(sizes) if texts else {},
    )
