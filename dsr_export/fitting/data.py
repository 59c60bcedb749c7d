"""What registers are trained on: latents with labels, recorded inputs of the model, or its own trajectories.

Shapes: n rows, C channels, H x W the latent's sides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.backends.base import as_denoiser
from dsr_export.errors import ExportError
from dsr_export.families.digests import file_sha256
from dsr_export.families.encoders.vision_encoder import VisionEncoder
from dsr_export.images.reading import SUFFIXES, picture_files
from dsr_export.int8.data_files import read_inputs
from dsr_export.progress import Reporter
from dsr_export.sampling import SamplerSpec, seeded_noise, trajectory
from dsr_export.storage.canonical import canonical_digest
from dsr_export.storage.npz_file import declared_arrays, read_npz
from dsr_export.subject import Subject, SubjectCard
from dsr_export.subjects.torch_runner import TorchRunner

Array = npt.NDArray[Any]
SELF = "self"
LATENTS, LABELS = "latents", "labels"
WALKS, STEPS_KEPT = 64, 8  # of `self`: trajectories, and calls that are kept of each
MOST_BYTES = 256 << 20  # of calls that are kept
_HINT = "an npz, or a folder of them, with `latents` [n, C, H, W] and `labels` [n], or with the model's inputs by name"


@dataclass(frozen=True, kw_only=True)
class Latents:
    """Clean latents [n, C, H, W] float32, as the model draws them, and classes [n] int64."""

    values: Array
    labels: Array


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the model was called with, by name, [n, ...]."""

    values: Mapping[str, Array]

    @property
    def count(self) -> int:
        return len(next(iter(self.values.values())))


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """What an encoder reads, [n, ...] float32, as its image processor makes it."""

    values: Array


def data_files(path: Path) -> list[Path]:
    """The npz files that `--data` names. ExportError where there are none."""
    files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise ExportError(f"no data at {path}", hint=f"give {_HINT}")
    return files


def data_digest(data: str) -> str:
    """What identifies it."""
    if data == SELF:
        return data
    path = Path(data)
    pictures = path.is_dir() and any(file.suffix.lower() in SUFFIXES for file in path.iterdir())
    # beside pictures there may be npz files: which of them are read is the model's affair, so all count
    npz = sorted(path.glob("*.npz")) if pictures else data_files(path)
    return canonical_digest([file_sha256(file) for file in (*(picture_files(path) if pictures else ()), *npz)])


def read_data(data: str, subject: Subject) -> Data | None:
    """The rows of `--data`; None for `self`. Before the first step raises ExportError for whatever does not fit."""
    card = subject.card()
    if isinstance(subject.module, VisionEncoder):
        if data == SELF:
            raise ExportError(f"{card.name} is an encoder, and no pictures are given", hint="give --data DIR or npz")
        return Pictures(values=read_inputs(Path(data), card)[card.inputs[0].name])
    if data == SELF:
        if card.sampler is None:
            raise ExportError(
                f"{card.name} has no sampler of its own to walk with",
                hint="give --data FILE with its inputs by name: `attach(pipe, bundle).recorded(...)` makes one",
            )
        return None
    files = data_files(Path(data))
    if LATENTS not in declared_arrays(files[0], hint=_HINT):
        return Inputs(values=read_inputs(Path(data), card))
    if card.sampler is None:
        raise ExportError(
            f"{card.name} declares no training loss for latents", hint="give its inputs by name, for distillation"
        )
    return _latents(files, card)


def _latents(files: Sequence[Path], card: SubjectCard) -> Latents:
    parts = [_checked(file, read_npz(file, hint=_HINT), card) for file in files]
    values, labels = (np.concatenate([part[i] for part in parts]) for i in range(2))
    if not len(values):
        raise ExportError(f"{files[0]} holds no rows", hint=f"give {_HINT}")
    return Latents(values=values, labels=labels)


def _checked(file: Path, arrays: Mapping[str, Array], card: SubjectCard) -> tuple[Array, Array]:
    wanted = card.inputs[0].with_batch(1)[1:]
    values, labels = arrays.get(LATENTS), arrays.get(LABELS)
    if values is None or values.dtype.kind != "f" or values.shape[1:] != wanted:
        found = "none" if values is None else f"{values.dtype} {list(values.shape)}"
        raise ExportError(f"{file}: expected '{LATENTS}' of floats [n, {', '.join(map(str, wanted))}], found {found}")
    with np.errstate(over="ignore"):
        values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise ExportError(f"{file}: '{LATENTS}' holds NaN or infinities, as float32", hint="make it again")
    if labels is None and card.num_classes > 1:
        raise ExportError(f"{file} has no '{LABELS}', and {card.name} draws {card.num_classes} classes")
    labels = np.zeros(len(values), np.int64) if labels is None else labels
    fits = labels.dtype.kind in "iu" and labels.shape == (len(values),)
    if not fits or (len(labels) and not 0 <= labels.min() <= labels.max() < max(card.num_classes, 1)):
        raise ExportError(
            f"{file}: '{LABELS}' are not {len(values)} whole numbers from 0 to {max(card.num_classes, 1) - 1}",
            hint=f"found {labels.dtype} {list(labels.shape)}",
        )
    return values, labels.astype(np.int64)


Data = Latents | Inputs | Pictures


def own_calls(subject: Subject, spec: SamplerSpec, seed: int, shown: Reporter) -> Inputs:
    """Calls of the model on its own way from noise to data, some of each trajectory."""
    shape = subject.inputs[0].with_batch(1)[1:]
    a_call = int(np.prod(shape)) * 4
    walks = max(1, min(WALKS, MOST_BYTES // (a_call * STEPS_KEPT)))
    rng = np.random.default_rng([seed, 1])
    denoiser, kept = as_denoiser(TorchRunner(subject)), list[dict[str, Array]]()
    with shown.stage("the model's own trajectories") as bar:
        for first in range(0, walks, 8):
            count = min(8, walks - first)
            labels = (np.arange(first, first + count) % max(subject.num_classes, 1)).astype(np.int64)
            noise = seeded_noise(seed, count, shape, first=first)
            chosen = set(rng.choice(spec.num_steps - 1, min(STEPS_KEPT, spec.num_steps - 1), replace=False).tolist())
            for step in trajectory(denoiser, spec, noise, labels):
                bar((first * (spec.num_steps - 1)) // 8 + step.index, walks * (spec.num_steps - 1) // 8)
                if step.index in chosen:
                    kept.append(step.inputs)
    return Inputs(values={name: np.concatenate([each[name] for each in kept]) for name in kept[0]})
