"""`diagnose`: loads a model, finds its outlier tokens, and writes what was found and what to do."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from dsr_export.config import ModelRequest
from dsr_export.diagnosis.declaration import NEURONS_FILE, denoiser_toml, encoder_toml, neurons_json
from dsr_export.diagnosis.denoiser import diagnose_denoiser
from dsr_export.diagnosis.encoder import diagnose_encoder, settings_for
from dsr_export.diagnosis.folder import RECORD, check_folder, write_folder
from dsr_export.diagnosis.models.denoiser import DenoiserTokens
from dsr_export.diagnosis.models.encoder import EncoderTokens
from dsr_export.diagnosis.models.tokens import FoundBlocks
from dsr_export.diagnosis.pages.denoiser import denoiser_page
from dsr_export.diagnosis.pages.encoder import encoder_page
from dsr_export.diagnosis.pages.streams import stream_page
from dsr_export.diagnosis.record import denoiser_record, encoder_record, summary
from dsr_export.diagnosis.streams.diagnosis import diagnose_streams
from dsr_export.diagnosis.streams.pipeline import is_pipeline, no_pipeline, planned, sized, torch_pipeline
from dsr_export.diagnosis.streams.prompts import read_prompts, register_file
from dsr_export.diagnosis.streams.report import stream_record, stream_toml, stream_verdict
from dsr_export.diagnosis.streams.walk import Walked
from dsr_export.diagnosis.verdicts import DSR_FILE, denoiser_verdict, encoder_verdict
from dsr_export.diagnosis.walk import WalkSettings
from dsr_export.errors import ExportError
from dsr_export.families.encoders.vision_encoder import VisionEncoder
from dsr_export.families.network_parts.trunk import Trunk
from dsr_export.images.reading import check_readable, open_images
from dsr_export.pipelines.plan import PipelinePlan
from dsr_export.progress import Reporter, Silent
from dsr_export.readable import readable
from dsr_export.sources import find_source
from dsr_export.storage.atomic import atomic_file
from dsr_export.storage.output_target import check_target
from dsr_export.subject import Subject, require_module

PAGE = "index.html"
_ENCODERS = ("images", "detect_layer", "threshold", "highest_layer", "top_k", "rounds")
_DENOISERS = ("count", "steps", "seed")
_PIPELINES = ("prompts",)


@dataclass(frozen=True, kw_only=True)
class DiagnosisOptions:
    """What a diagnosis is asked to do; None takes the default. `images` and the fields up to `rounds` are for encoders,
    `count` to `seed` for denoisers, `prompts` (a file) for pipelines. `out` defaults to ./MODEL.diagnosis; `write_dsr`
    is one more copy of dsr.toml."""

    images: Path | None = None
    detect_layer: int | None = None
    threshold: float | None = None
    highest_layer: int | None = None
    top_k: int | None = None
    rounds: int | None = None
    prompts: Path | None = None
    count: int | None = None
    steps: int | None = None
    seed: int | None = None
    out: Path | None = None
    write_dsr: Path | None = None
    force: bool = False


@dataclass(frozen=True)
class _Outcome:
    """What goes into the folder besides the record."""

    record: dict[str, Any]
    page: str
    toml: str | None
    neurons: str | None


def diagnose(
    request: ModelRequest, options: DiagnosisOptions | None = None, *, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Diagnoses a denoiser, a pipeline or an image encoder and writes the folder. Returns the summary of the record.

    Raises ExportError for models that are none of these, for options that the model has no use for, and for bad files.
    """
    asked, said = options or DiagnosisOptions(), reporter or Silent()
    plan = planned(request) if is_pipeline(request) else None
    prompts = None if asked.prompts is None else read_prompts(asked.prompts)
    if plan is not None:
        _check_prompts(plan, prompts)
    source = find_source(request if plan is None else sized(request, plan))
    out = asked.out or Path(f"{source.name}.diagnosis")
    check_folder(out, force=asked.force)
    if asked.write_dsr is not None:
        check_target(asked.write_dsr)
    if asked.images is not None:
        check_readable(asked.images)
    with said.stage("load"):
        subject = require_module(source.load())
    if plan is not None:
        found = _pipeline(subject, plan, request, asked, prompts, out, said)
    elif isinstance(subject.module, Trunk):
        found = _denoiser(subject, subject.module, request, asked, out, said)
    else:
        found = _encoder(subject, request, asked, out, said)
    texts = {RECORD: json.dumps(found.record, sort_keys=True) + "\n", PAGE: found.page}
    texts |= {name: text for name, text in ((DSR_FILE, found.toml), (NEURONS_FILE, found.neurons)) if text is not None}
    write_folder(out, texts, force=asked.force)
    return {
        **summary(found.record),
        "out": readable(str(out)),
        "files": sorted(texts),
        "page": readable(str(out / PAGE)),
    }


def _denoiser(
    subject: Subject, module: Trunk, request: ModelRequest, asked: DiagnosisOptions, out: Path, said: Reporter
) -> _Outcome:
    _refuse(subject, asked, _ENCODERS, "an image encoder")
    _refuse(subject, asked, _PIPELINES, "a pipeline")
    base = WalkSettings()
    settings = WalkSettings(
        images=base.images if asked.count is None else asked.count,
        steps=base.steps if asked.steps is None else asked.steps,
        seed=base.seed if asked.seed is None else asked.seed,
    )
    found = diagnose_denoiser(subject, DenoiserTokens(module), settings, said)
    verdict = denoiser_verdict(found, model_words(request), out / DSR_FILE)
    toml = denoiser_toml(found)
    _write_copy(asked.write_dsr, toml, said)
    return _Outcome(denoiser_record(found, verdict), denoiser_page(found, verdict), toml, None)


def _check_prompts(plan: PipelinePlan, prompts: tuple[str, ...] | None) -> None:
    """Before anything is loaded. Prompts are never made up."""
    name, takes = plan.folder.class_name, bool(plan.record.text)
    if takes and prompts is None:
        raise ExportError(f"{name} draws what prompts say, and none are given", hint="give --prompts FILE, one a line")
    if prompts is not None and not takes:
        raise ExportError(f"--prompts is for pipelines of prompts, and {name} takes classes", hint="leave it out")


def _pipeline(
    subject: Subject,
    plan: PipelinePlan,
    request: ModelRequest,
    asked: DiagnosisOptions,
    prompts: tuple[str, ...] | None,
    out: Path,
    said: Reporter,
) -> _Outcome:
    _refuse(subject, asked, _ENCODERS, "an image encoder")
    base, given = WalkSettings(), prompts or ()
    walked = Walked(
        images=(len(given) or base.images) if asked.count is None else asked.count,
        steps=base.steps if asked.steps is None else asked.steps,
        seed=base.seed if asked.seed is None else asked.seed,
        prompts=given,
    )
    with torch_pipeline(plan, sized(request, plan), subject, given, said) as pipeline:
        found = diagnose_streams(subject, pipeline, walked, said)
    words = (*model_words(request), "--components", "all")
    verdict, registers = stream_verdict(found, words, out / DSR_FILE), register_file(request)
    if asked.write_dsr is not None:
        _write_copy(asked.write_dsr, stream_toml(found, registers, asked.write_dsr.parent), said)
    record = stream_record(found, verdict)
    return _Outcome(record, stream_page(found, verdict), stream_toml(found, registers, out), None)


def _encoder(subject: Subject, request: ModelRequest, asked: DiagnosisOptions, out: Path, said: Reporter) -> _Outcome:
    image = subject.inputs[0]
    if subject.family == "diffusers" and len(subject.inputs) > 1:
        raise no_pipeline(subject)
    if len(subject.inputs) != 1 or len(image.shape) != 4 or image.shape[1] != 3 or image.dtype != "float32":
        raise ExportError(
            f"{subject.name} is neither a denoiser with its own sampler nor an image encoder",
            hint="diagnose takes rae-dit models, encoders, and modules of one image [batch, 3, height, width]",
        )
    _refuse(subject, asked, _DENOISERS, "a denoiser")
    _refuse(subject, asked, _PIPELINES, "a pipeline")
    if asked.images is None:
        raise ExportError(f"{subject.name} is an encoder, and no images are given", hint="give --images DIR or NPZ")
    settings = settings_for(
        subject.family,
        detect_layer=asked.detect_layer,
        threshold=asked.threshold,
        highest_layer=asked.highest_layer,
        top_k=asked.top_k,
        rounds=1 if asked.rounds is None else asked.rounds,
    )
    images = open_images(asked.images, image.with_batch(1)[1:], subject.family)
    known = isinstance(subject.module, VisionEncoder)
    model = EncoderTokens(subject.module) if isinstance(subject.module, VisionEncoder) else FoundBlocks(subject.module)
    found = diagnose_encoder(subject, model, images, settings, said)
    verdict = encoder_verdict(found, model_words(request), out / DSR_FILE, stabilises=known)
    toml = encoder_toml(found, out / NEURONS_FILE, out) if known else None
    if asked.write_dsr is not None and known:
        _write_copy(asked.write_dsr, encoder_toml(found, out / NEURONS_FILE, asked.write_dsr.parent), said)
    neurons = neurons_json(found.table) if found.table else None
    return _Outcome(encoder_record(found, verdict), encoder_page(found, verdict), toml, neurons)


def model_words(request: ModelRequest) -> tuple[str, ...]:
    """The model and its weights as words of a command line; `--dsr` is what a diagnosis replaces."""
    words = [request.model] if request.model_dir is None else []
    for field in fields(ModelRequest):
        value = getattr(request, field.name)
        if field.name not in ("model", "dsr", "options", "loras") and value is not None:
            words += [
                "--config" if field.name == "config_file" else "--" + field.name.replace("_", "-"),
                readable(str(value)),
            ]
    for lora in request.loras:
        words += ["--lora", readable(str(lora))]
    for name, value in request.options.items():
        words += ["--option", readable(f"{name}={str(value).lower() if isinstance(value, bool) else value}")]
    return tuple(words)


def _write_copy(path: Path | None, toml: str | None, said: Reporter) -> None:
    if path is None:
        return
    if toml is None:
        said.note(f"{path} is not written: there is nothing to declare")
        return
    with atomic_file(path) as temporary:
        temporary.write_text(toml, encoding="utf-8")


def _refuse(subject: Subject, asked: DiagnosisOptions, names: tuple[str, ...], form: str) -> None:
    for name in names:
        if getattr(asked, name) is not None:
            flag = "--" + name.replace("_", "-")
            raise ExportError(f"{flag} is for {form}, and {subject.name} is none", hint=f"leave {flag} out")
