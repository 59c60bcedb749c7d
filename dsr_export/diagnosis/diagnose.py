"""`diagnose`: loads a model, finds its outlier tokens, and writes what was found and what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dsr_export.config import ModelRequest
from dsr_export.diagnosis.asked import DENOISERS, ENCODERS, PIPELINES, Outcome, refuse, write_copy
from dsr_export.diagnosis.asked import DiagnosisOptions as DiagnosisOptions
from dsr_export.diagnosis.asked import model_words as model_words
from dsr_export.diagnosis.declaration import NEURONS_FILE, denoiser_toml, encoder_toml, neurons_json
from dsr_export.diagnosis.denoiser import diagnose_denoiser
from dsr_export.diagnosis.encoder import diagnose_encoder, settings_for
from dsr_export.diagnosis.folder import RECORD, check_folder, write_folder
from dsr_export.diagnosis.models.denoiser import DenoiserTokens
from dsr_export.diagnosis.models.encoder import EncoderTokens
from dsr_export.diagnosis.models.tokens import FoundBlocks
from dsr_export.diagnosis.pages.denoiser import denoiser_page
from dsr_export.diagnosis.pages.encoder import encoder_page
from dsr_export.diagnosis.record import denoiser_record, encoder_record, summary
from dsr_export.diagnosis.streams.outcome import check_prompts, pipeline_outcome, rows_outcome
from dsr_export.diagnosis.streams.rows import no_pipeline, rows_of
from dsr_export.diagnosis.verdicts import DSR_FILE, denoiser_verdict, encoder_verdict
from dsr_export.diagnosis.walk import WalkSettings
from dsr_export.errors import ExportError
from dsr_export.families.encoders.vision_encoder import VisionEncoder
from dsr_export.families.network_parts.trunk import Trunk
from dsr_export.images.reading import check_readable, open_images
from dsr_export.int8.data import check_data
from dsr_export.pipelines.prompt_file import read_prompts
from dsr_export.progress import Reporter, Silent
from dsr_export.readable import readable
from dsr_export.sources import find_source
from dsr_export.storage.output_target import check_target
from dsr_export.subject import Subject, require_module
from dsr_export.walks.torch_pipeline import is_pipeline, planned, sized

PAGE = "index.html"


def diagnose(
    request: ModelRequest, options: DiagnosisOptions | None = None, *, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Diagnoses a denoiser, a pipeline or an image encoder and writes the folder. Returns the summary of the record.

    Raises ExportError for models that are none of these, for options that the model has no use for, and for bad files.
    """
    asked, said = options or DiagnosisOptions(), reporter or Silent()
    if asked.inputs is not None:
        check_data(rows_of(asked.inputs))
    plan = planned(request) if is_pipeline(request) and asked.inputs is None else None
    prompts = None if asked.prompts is None else read_prompts(asked.prompts)
    if plan is not None:
        check_prompts(plan, prompts)
    source = find_source(request if plan is None else sized(request, plan))
    out = asked.out or Path(f"{source.name}.diagnosis")
    check_folder(out, force=asked.force)
    if asked.write_dsr is not None:
        check_target(asked.write_dsr)
    if asked.images is not None:
        check_readable(asked.images)
    with said.stage("load"):
        subject = require_module(source.load())
    if asked.inputs is not None:
        found = rows_outcome(subject, asked.inputs, request, asked, out, said)
    elif plan is not None:
        found = pipeline_outcome(subject, plan, request, asked, prompts, out, said)
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
) -> Outcome:
    refuse(subject, asked, ENCODERS, "an image encoder")
    refuse(subject, asked, PIPELINES, "a pipeline")
    base = WalkSettings()
    settings = WalkSettings(
        images=base.images if asked.count is None else asked.count,
        steps=base.steps if asked.steps is None else asked.steps,
        seed=base.seed if asked.seed is None else asked.seed,
    )
    found = diagnose_denoiser(subject, DenoiserTokens(module), settings, said)
    verdict = denoiser_verdict(found, model_words(request), out / DSR_FILE)
    toml = denoiser_toml(found)
    write_copy(asked.write_dsr, toml, said)
    return Outcome(denoiser_record(found, verdict), denoiser_page(found, verdict), toml, None)


def _encoder(subject: Subject, request: ModelRequest, asked: DiagnosisOptions, out: Path, said: Reporter) -> Outcome:
    image = subject.inputs[0]
    if subject.family == "diffusers" and len(subject.inputs) > 1:
        raise no_pipeline(subject)
    if len(subject.inputs) != 1 or len(image.shape) != 4 or image.shape[1] != 3 or image.dtype != "float32":
        raise ExportError(
            f"{subject.name} is neither a denoiser with its own sampler nor an image encoder",
            hint="diagnose takes rae-dit models, encoders, and modules of one image [batch, 3, height, width]",
        )
    refuse(subject, asked, DENOISERS, "a denoiser")
    refuse(subject, asked, PIPELINES, "a pipeline")
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
        write_copy(asked.write_dsr, encoder_toml(found, out / NEURONS_FILE, asked.write_dsr.parent), said)
    neurons = neurons_json(found.table) if found.table else None
    return Outcome(encoder_record(found, verdict), encoder_page(found, verdict), toml, neurons)
