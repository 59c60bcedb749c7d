"""A diffusers transformer's diagnosis from what is asked to what is written: of its pipeline, or of given inputs."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from dsr_export.config import ModelRequest
from dsr_export.diagnosis.asked import (
    DENOISERS,
    ENCODERS,
    PIPELINES,
    DiagnosisOptions,
    Outcome,
    model_words,
    refuse,
    write_copy,
)
from dsr_export.diagnosis.pages.streams import stream_page
from dsr_export.diagnosis.streams.diagnosis import StreamDiagnosis, diagnose_streams
from dsr_export.diagnosis.streams.inserted import register_file
from dsr_export.diagnosis.streams.report import stream_record, stream_toml, stream_verdict
from dsr_export.diagnosis.streams.rows import is_followed, open_rows
from dsr_export.diagnosis.streams.walk import CHUNK, Walked, walk, walk_rows
from dsr_export.diagnosis.verdicts import DSR_FILE
from dsr_export.diagnosis.walk import WalkSettings
from dsr_export.errors import ExportError
from dsr_export.pipelines.plan import PipelinePlan
from dsr_export.progress import Reporter
from dsr_export.readable import readable
from dsr_export.subject import Subject
from dsr_export.subjects.torch_runner import TorchRunner
from dsr_export.walks.torch_pipeline import Transformer, sized, torch_pipeline


def check_prompts(plan: PipelinePlan, prompts: tuple[str, ...] | None) -> None:
    """Before anything is loaded. Prompts are never made up."""
    name, takes = plan.folder.class_name, bool(plan.record.text)
    if takes and prompts is None:
        raise ExportError(f"{name} draws what prompts say, and none are given", hint="give --prompts FILE, one a line")
    if prompts is not None and not takes:
        raise ExportError(f"--prompts is for pipelines of prompts, and {name} takes classes", hint="leave it out")


def pipeline_outcome(
    subject: Subject,
    plan: PipelinePlan,
    request: ModelRequest,
    asked: DiagnosisOptions,
    prompts: tuple[str, ...] | None,
    out: Path,
    said: Reporter,
) -> Outcome:
    """A whole pipeline, walked from `prompts`, or from classes where there are none."""
    refuse(subject, asked, ENCODERS, "an image encoder")
    base, given = WalkSettings(), prompts or ()
    walked = Walked(
        images=(len(given) or base.images) if asked.count is None else asked.count,
        steps=base.steps if asked.steps is None else asked.steps,
        seed=base.seed if asked.seed is None else asked.seed,
        prompts=given,
    )
    transformer = Transformer(described=subject, opened=partial(TorchRunner, subject), rows=2 * CHUNK)
    with torch_pipeline(plan, sized(request, plan), transformer, given, said) as pipeline:
        drive = partial(walk, pipeline, walked)
        found = diagnose_streams(subject, drive, walked, said)
    return _streams(found, (*model_words(request), "--components", "all"), request, asked, out, said)


def rows_outcome(
    subject: Subject, inputs: Path, request: ModelRequest, asked: DiagnosisOptions, out: Path, said: Reporter
) -> Outcome:
    """A transformer whose pipeline is not known here, or that comes alone."""
    if not is_followed(subject):
        raise ExportError(f"--inputs is for diffusers transformers, and {subject.name} is none", hint="leave it out")
    for name in (*ENCODERS, *DENOISERS, *PIPELINES):
        if getattr(asked, name) is not None:
            flag = "--" + name.replace("_", "-")
            raise ExportError(f"--inputs says what the model is run with, and {flag} is of no use", hint="give one")
    data = open_rows(inputs, subject)
    walked = Walked(images=data.count, inputs=readable(str(inputs)))
    found = diagnose_streams(subject, partial(walk_rows, subject, data), walked, said)
    return _streams(found, model_words(request), request, asked, out, said)


def _streams(
    found: StreamDiagnosis,
    words: tuple[str, ...],
    request: ModelRequest,
    asked: DiagnosisOptions,
    out: Path,
    said: Reporter,
) -> Outcome:
    verdict, registers = stream_verdict(found, words, out / DSR_FILE), register_file(request)
    if asked.write_dsr is not None:
        write_copy(asked.write_dsr, stream_toml(found, registers, asked.write_dsr.parent), said)
    record = stream_record(found, verdict)
    return Outcome(record, stream_page(found, verdict), stream_toml(found, registers, out), None)
