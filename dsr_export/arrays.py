"""Named arrays in npz files, read without pickle and written atomically."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.atomic import atomic_file
from dsr_export.errors import ExportError

Array = npt.NDArray[Any]


def load_arrays(path: Path) -> dict[str, Array]:
    """All arrays of an npz file.

    Raises:
        ExportError: missing, no npz, truncated, or holding Python objects.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except FileNotFoundError as error:
        raise ExportError(f"{path} does not exist", hint="give an npz file with the model's inputs by name") from error
    except (OSError, ValueError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise ExportError(
            f"{path} is no readable npz: {error}", hint="write it with numpy.savez, without objects"
        ) from error


def save_arrays(path: Path, arrays: dict[str, Array]) -> None:
    """Writes `arrays` by name; raises `ExportError` where the file can't be written."""
    with atomic_file(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]
