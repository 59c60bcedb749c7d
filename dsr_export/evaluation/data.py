"""The data that generated pictures are compared with: a folder, an npz of pictures, or statistics of features."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.errors import ExportError
from dsr_export.evaluation.distances import check_enough
from dsr_export.evaluation.features.extractor import Extractor
from dsr_export.evaluation.measured_with import measured_with
from dsr_export.evaluation.moments import Moments
from dsr_export.evaluation.statistics_file import checked_count, checked_statistics
from dsr_export.families.digests import file_sha256
from dsr_export.images.picture_file import check_header, read_picture
from dsr_export.images.reading import picture_files
from dsr_export.progress import Bar, Reporter
from dsr_export.storage.cache import StageCache
from dsr_export.storage.canonical import canonical_digest
from dsr_export.storage.npz_file import declared_arrays, read_npz

Array = npt.NDArray[Any]
AT_ONCE = 32  # pictures in memory
MEAN, COVARIANCE, COUNT = "mu", "sigma", "count"
"""Names in a file of statistics, as pytorch-fid writes them; the count is ours, and may be left away."""
UNKNOWN_COUNT = 2**31
_STAGE, _FILE = "evaluation-data", "moments.npz"
_HINT = "it takes a folder of PNG or JPEG files, an npz of pictures [n, H, W, 3] uint8, or one of mu and sigma"


def check_data(path: Path) -> None:
    """What `data_moments` would refuse by headers alone. Raises ExportError."""
    if path.is_dir():
        for file in picture_files(path):
            check_header(file)
    elif not path.is_file():
        raise ExportError(f"no data at {path}", hint=_HINT)
    else:
        _pictures_or_statistics(path, declared_arrays(path, hint=_HINT))


def data_moments(
    path: Path, extractors: Mapping[str, Extractor], cache: StageCache, shown: Reporter
) -> dict[str, Moments]:
    """Moments of the data's features, by the extractors' names.

    Raises:
        ExportError: nothing there, an unreadable picture, pictures of several sizes, too few of them, or statistics
            of another width.
    """
    arrays = {} if path.is_dir() else read_npz(path, hint=_HINT)
    if arrays and MEAN in arrays:
        return {name: _statistics(path, arrays, each) for name, each in extractors.items()}
    count, chunks, digest = _chunks(path, arrays)
    for extractor in extractors.values():
        check_enough(count, extractor.width, f"pictures in {path}")
    found = {}
    for name, extractor in extractors.items():
        key = {"data": digest, "network": [extractor.name, extractor.digest], **measured_with()}
        with shown.stage(f"features of the data ({extractor.name})") as bar:
            stage = cache.run(_STAGE, key, partial(_write, extractor=extractor, chunks=chunks, count=count, bar=bar))
        found[name] = Moments.from_arrays(read_npz(stage.path / _FILE), "")
    return found


Chunks = Callable[[], Iterator[Array]]


def _write(folder: Path, *, extractor: Extractor, chunks: Chunks, count: int, bar: Bar) -> None:
    total: Moments | None = None
    done = 0
    for pictures in chunks():
        made = Moments.of(extractor(pictures).features)
        total = made if total is None else total.merged(made)
        done += len(pictures)
        bar(done, count)
    assert total is not None  # no data is refused
    np.savez(folder / _FILE, **total.arrays(""))  # type: ignore[arg-type]


def _chunks(path: Path, arrays: Mapping[str, Array]) -> tuple[int, Chunks, str]:
    """How many pictures, a walk over them, and what identifies them."""
    if not arrays:
        files = picture_files(path)
        return len(files), partial(_of_files, files), canonical_digest([file_sha256(file) for file in files])
    pictures = _pictures_or_statistics(path, arrays)
    assert pictures is not None  # it has no mean
    return len(pictures), partial(_of_array, pictures), file_sha256(path)


def _of_files(files: Sequence[Path]) -> Iterator[Array]:
    size = None
    for start in range(0, len(files), AT_ONCE):
        rows = []
        for file in files[start : start + AT_ONCE]:
            picture = np.asarray(read_picture(file))
            size = size or picture.shape
            if picture.shape != size:
                raise ExportError(
                    f"{file} has {picture.shape[1]}x{picture.shape[0]} pixels, and those before {size[1]}x{size[0]}",
                    hint="bring all pictures of the data to one size",
                )
            rows.append(picture)
        yield np.stack(rows)


def _of_array(pictures: Array) -> Iterator[Array]:
    for start in range(0, len(pictures), AT_ONCE):
        yield pictures[start : start + AT_ONCE]


def _pictures_or_statistics(path: Path, arrays: Mapping[str, Array]) -> Array | None:
    """The pictures [n, H, W, C] uint8; None for a file of statistics. ExportError for anything else."""
    if MEAN in arrays and COVARIANCE in arrays:
        return None
    if len(arrays) == 1:
        found = next(iter(arrays.values()))
        if found.dtype == np.uint8 and found.ndim == 4 and found.shape[3] in (1, 3) and len(found):
            return found
    held = ", ".join(f"{name} {each.dtype} {list(each.shape)}" for name, each in list(arrays.items())[:4]) or "nothing"
    raise ExportError(f"{path} holds {held}", hint=_HINT)


def _statistics(path: Path, arrays: Mapping[str, Array], extractor: Extractor) -> Moments:
    width = extractor.width
    mean, covariance = arrays[MEAN], arrays[COVARIANCE]
    if mean.shape != (width,) or covariance.shape != (width, width):
        raise ExportError(
            f"{path} has statistics of {list(mean.shape)} and {list(covariance.shape)}, and {extractor.name} makes "
            f"{width} features",
            hint="statistics belong to the network that they were made with",
        )
    mean, covariance = checked_statistics(path, mean, covariance)
    count = checked_count(path, arrays[COUNT]) if COUNT in arrays else UNKNOWN_COUNT
    check_enough(count, width, f"pictures behind {path}")
    return Moments(count, mean, covariance * (count - 1))
