"""Named arrays in npz files, read without pickle and written atomically."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.backends.inputs import check_declared
from dsr_export.errors import ExportError
from dsr_export.storage.atomic import atomic_file
from dsr_export.storage.npz_file import declared_arrays, read_npz
from graphs.artifacts import TensorSpec

Array = npt.NDArray[Any]
_HINT = "write it with numpy.savez, without objects"


def load_arrays(path: Path, inputs: Sequence[TensorSpec] = ()) -> dict[str, Array]:
    """All arrays of an npz file. With `inputs`, names, types and shapes are held against them before any data is read.

    Raises:
        ExportError: missing, no npz, truncated, larger than `read_npz` takes, or holding anything but numbers; or
            other arrays than `inputs`.
    """
    if inputs:
        check_declared(declared_shapes(path), inputs)
    return read_npz(_existing(path), hint=_HINT)


def declared_shapes(path: Path) -> dict[str, Array]:
    """Stand-ins of the shapes and types that an npz file declares, which take no memory; raises as `load_arrays`."""
    return declared_arrays(_existing(path), hint=_HINT)


def _existing(path: Path) -> Path:
    if not path.exists():
        raise ExportError(f"{path} does not exist", hint="give an npz file with the model's inputs by name")
    return path


def save_arrays(path: Path, arrays: dict[str, Array]) -> None:
    """Writes `arrays` by name; raises `ExportError` where the file can't be written."""
    with atomic_file(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]
