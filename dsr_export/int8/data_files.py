"""The inputs of a model in a user's files, by name: what does not fit is refused by name, input and row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.backends.labels import LABELS, check_labels, highest_label
from dsr_export.backends.named_arrays import declared_shapes, load_arrays
from dsr_export.declarations.int8_options import GIVE
from dsr_export.errors import ExportError
from dsr_export.images.reading import SUFFIXES, open_images
from dsr_export.subject import SubjectCard
from graphs.artifacts import TensorSpec

Array = npt.NDArray[Any]


def read_inputs(path: Path, card: SubjectCard) -> dict[str, Array]:
    """The inputs [n, ...] by name in an npz file or a folder. ExportError for what does not fit the model."""
    if path.is_dir() and any(file.suffix.lower() in SUFFIXES for file in path.iterdir()):
        if len(card.inputs) > 1:
            names = ", ".join(spec.name for spec in card.inputs)
            raise ExportError(f"{path} holds pictures, and {card.name} takes {names}", hint=GIVE)
        images = open_images(path, card.inputs[0].with_batch(1)[1:], card.family)
        return {card.inputs[0].name: np.concatenate(list(images))}
    if path.is_dir():
        files = sorted(path.glob("*.npz"))
        if not files:
            raise ExportError(f"{path} holds no calibration data", hint="it takes npz files, or images for an encoder")
        parts = [_loaded(file, card) for file in files]
        return {spec.name: np.concatenate([part[spec.name] for part in parts]) for spec in card.inputs}
    return _loaded(path, card)


def _loaded(path: Path, card: SubjectCard) -> dict[str, Array]:
    """The inputs in an npz file, which may hold more; what does not fit is refused before any value is read."""
    _check_declared(path, declared_shapes(path), card.inputs)
    arrays = load_arrays(path)
    highest = highest_label(card.num_classes, card.sampler)
    if LABELS in {spec.name for spec in card.inputs} and highest is not None:
        check_labels(arrays[LABELS], highest, where=f"{path}: ")
    return {spec.name: _finite(path, arrays[spec.name], spec) for spec in card.inputs}


def _check_declared(path: Path, arrays: Mapping[str, Array], inputs: Sequence[TensorSpec]) -> None:
    missing = [spec.name for spec in inputs if spec.name not in arrays]
    if missing:
        held = ", ".join(name[:80] for name in sorted(arrays)[:8])
        raise ExportError(f"{path} lacks the input '{missing[0]}'", hint=f"it holds {held}")
    counts = {len(arrays[spec.name]) if arrays[spec.name].ndim else 0 for spec in inputs}
    if len(counts) != 1 or 0 in counts:
        raise ExportError(f"{path} holds no rows, or not as many of each input", hint="give arrays [n, ...] of one n")
    for spec in inputs:
        _check_spec(path, arrays[spec.name], spec)


def _check_spec(path: Path, array: Array, spec: TensorSpec) -> None:
    where = f"{path}: '{spec.name}'"
    wanted = spec.with_batch(1)[1:]
    if array.shape[1:] != wanted:
        raise ExportError(f"{where} has the shape {list(array.shape)}, expected [n{''.join(f', {d}' for d in wanted)}]")
    if np.dtype(spec.dtype).kind != array.dtype.kind:
        raise ExportError(f"{where} is {array.dtype}, expected {spec.dtype}")


def _finite(path: Path, array: Array, spec: TensorSpec) -> Array:
    with np.errstate(over="ignore"):
        made = array.astype(spec.dtype)
    if made.dtype.kind == "f" and not np.isfinite(made).all():
        row = int(np.flatnonzero(~np.isfinite(made.reshape(len(made), -1)).all(axis=1))[0])
        raise ExportError(
            f"{path}: '{spec.name}' holds NaN or Inf in row {row}, as {spec.dtype}", hint="remove the row"
        )
    return made
