"""Inputs by name, as a calibration takes them, for a transformer that no pipeline is known for."""

from __future__ import annotations

from pathlib import Path

from dsr_export.declarations.int8_options import TRAJECTORY, Int8Options
from dsr_export.errors import ExportError
from dsr_export.families.diffusers.general.adapter import GeneralDenoiser
from dsr_export.families.diffusers.wrapper import DiffusersDenoiser
from dsr_export.int8.data import Arrays, open_data
from dsr_export.subject import Subject


def no_pipeline(subject: Subject) -> ExportError:
    """What is said of a denoiser that comes alone."""
    return ExportError(
        f"{subject.name} is a transformer without its pipeline, whose prompts and scheduler a diagnosis walks with",
        hint="give --model-dir the pipeline's folder, or the transformer's inputs: --inputs FILE.npz",
    )


def rows_of(path: Path) -> Int8Options:
    """A folder of npz files or one of them, or `random:SEED` to try it out. ExportError for anything else."""
    if str(path) == TRAJECTORY:
        raise ExportError("--inputs trajectory: without its pipeline a transformer has none", hint="give an npz file")
    return Int8Options(data=str(path))


def open_rows(path: Path, subject: Subject) -> Arrays:
    """The rows, checked against the model's inputs."""
    found = open_data(rows_of(path), subject.card(), None, lambda rows, seed: subject.example(rows, seed=seed))
    assert isinstance(found, Arrays)  # what is no trajectory
    return found


def is_followed(subject: Subject) -> bool:
    """Whether its blocks can be looked at stream by stream."""
    return isinstance(subject.module, GeneralDenoiser | DiffusersDenoiser)
