"""Images for an encoder: a folder of PNG and JPEG files, or an npz file with `image`. One at a time in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dsr_export.backends.named_arrays import declared_shapes, load_arrays
from dsr_export.errors import ExportError, did_you_mean
from dsr_export.images.picture_file import BICUBIC, check_header, read_picture
from dsr_export.images.preparation import PREPARATIONS, Preparation

Array = npt.NDArray[Any]
SUFFIXES = (".jpeg", ".jpg", ".png")
ARRAY = "image"


class Images(Protocol):
    """Inputs [1, 3, H, W] float32, in a fixed order; may be walked again."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Array]: ...


def open_images(path: Path, shape: tuple[int, ...], family: str) -> Images:
    """Images for inputs of `shape` (3, H, W). Files of a folder are resized and normalised, arrays taken as they are.

    Raises:
        ExportError: nothing there, no image in it, an unreadable file, an array of another shape or type, NaN or Inf.
    """
    if path.is_dir():
        return _folder(path, shape, family)
    if not path.exists():
        raise ExportError(f"no such file or folder: {path}", hint="give --images a folder of PNG or JPEG files")
    arrays = load_arrays(path)
    if ARRAY not in arrays:
        near = did_you_mean(ARRAY, arrays) or f"it holds {', '.join(sorted(arrays)) or 'nothing'}"
        raise ExportError(f"{path} holds no array '{ARRAY}'", hint=near)
    return _checked(path, arrays[ARRAY], shape)


def check_readable(path: Path) -> None:
    """What `open_images` would refuse by headers alone: before a model is loaded, which takes longer."""
    if path.is_dir():
        for file in picture_files(path):
            check_header(file)
    elif path.exists():
        declared_shapes(path)


@dataclass(frozen=True)
class _Stack:
    rows: Array  # [n, 3, H, W]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Array]:
        for i in range(len(self.rows)):
            yield np.ascontiguousarray(self.rows[i : i + 1], np.float32)


def _checked(path: Path, array: Array, shape: tuple[int, ...]) -> _Stack:
    where = f"{path}: '{ARRAY}'"
    if array.ndim != 4 or array.shape[1:] != shape or not len(array):
        raise ExportError(f"{where} has shape {list(array.shape)}, expected [n, {', '.join(map(str, shape))}]")
    if array.dtype.kind != "f":
        raise ExportError(
            f"{where} is {array.dtype}, expected floats as the image processor makes them",
            hint="or give a folder of PNG or JPEG files, which are normalised here",
        )
    broken = np.flatnonzero(~np.isfinite(array).all(axis=(1, 2, 3)))
    if len(broken):
        raise ExportError(f"{where} holds NaN or Inf in image {broken[0]}")
    return _Stack(array)


@dataclass(frozen=True)
class _Folder:
    files: tuple[Path, ...]
    size: tuple[int, int]  # height, width
    preparation: Preparation

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[Array]:
        for file in self.files:
            yield _prepared(file, self.size, self.preparation)


def _folder(path: Path, shape: tuple[int, ...], family: str) -> _Folder:
    files = picture_files(path)
    if len(shape) != 3 or shape[0] != 3 or family not in PREPARATIONS:
        raise ExportError(
            f"how to make inputs {list(shape)} of '{family}' from image files is not known",
            hint=f"give --images an npz file with '{ARRAY}' [n, {', '.join(map(str, shape))}]",
        )
    return _Folder(files, (shape[1], shape[2]), PREPARATIONS[family])


def picture_files(path: Path) -> tuple[Path, ...]:
    """The PNG and JPEG files of a folder by name. ExportError where there is none."""
    files = tuple(sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file()))
    if not files:
        raise ExportError(f"{path} holds no image", hint="it takes " + ", ".join(SUFFIXES) + " files")
    return files


def _prepared(file: Path, size: tuple[int, int], preparation: Preparation) -> Array:
    """[1, 3, H, W] float32."""
    picture = read_picture(file)
    height, width = size
    made = picture.resize((width, height), BICUBIC, box=_box(picture.size, preparation.crop))
    scaled = np.asarray(made, np.float32) / 255
    normal = (scaled - np.array(preparation.mean, np.float32)) / np.array(preparation.std, np.float32)
    return np.ascontiguousarray(normal.transpose(2, 0, 1)[None])


def _box(size: tuple[int, int], crop: float | None) -> tuple[float, float, float, float]:
    """What is kept of a picture of `size` (width, height): left, top, right, bottom."""
    width, height = size
    if crop is None:
        return 0, 0, width, height
    side = min(size) * crop
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side
