"""Real pictures, and statistics of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dsr_export.errors import ExportError
from dsr_export.evaluation.data import check_data, data_moments
from dsr_export.evaluation.moments import Moments
from dsr_export.progress import Silent
from dsr_export.storage.cache import StageCache
from tests.evaluation.made import Blocks

PICTURES = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3)).astype(np.uint8)


def _moments(path: Path, cache: Path) -> Moments:
    check_data(path)
    return data_moments(path, {"fid": Blocks()}, StageCache(cache), Silent())["fid"]


@pytest.fixture
def wanted() -> Moments:
    return Moments.of(Blocks()(PICTURES).features)


def test_a_folder_an_array_and_statistics_say_the_same(tmp_path: Path, wanted: Moments) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, picture in enumerate(PICTURES):
        Image.fromarray(picture).save(folder / f"{i:03d}.png")
    np.savez(tmp_path / "pictures.npz", PICTURES)
    np.savez(tmp_path / "stats.npz", mu=wanted.mean, sigma=wanted.covariance, count=40)
    for path in (folder, tmp_path / "pictures.npz", tmp_path / "stats.npz"):
        found = _moments(path, tmp_path / "cache")
        assert found.count == 40
        np.testing.assert_allclose(found.mean, wanted.mean, rtol=1e-12)
        np.testing.assert_allclose(found.covariance, wanted.covariance, rtol=1e-9)


def test_statistics_that_were_rounded_are_taken(tmp_path: Path, wanted: Moments) -> None:
    rounded = wanted.covariance.astype(np.float32)
    rounded[0, 1] *= np.float32(1 + 1e-6)
    np.savez(tmp_path / "stats.npz", mu=wanted.mean.astype(np.float32), sigma=rounded, count=40.0)
    np.testing.assert_allclose(_moments(tmp_path / "stats.npz", tmp_path).covariance, wanted.covariance, rtol=1e-4)


def test_pictures_of_two_sizes_are_refused_by_name(tmp_path: Path) -> None:
    for i, picture in enumerate(PICTURES):
        Image.fromarray(picture if i != 30 else picture[:8]).save(tmp_path / f"{i:03d}.png")
    with pytest.raises(ExportError, match=r"030\.png has 16x8 pixels, and those before 16x16"):
        _moments(tmp_path, tmp_path / "cache")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": PICTURES[:8]}, "8 pictures in .* too few"),
        ({"a": PICTURES.astype(np.float32)}, "holds a float32"),
        ({"a": PICTURES[..., 0]}, "holds a uint8"),
        ({"mu": np.zeros(3), "sigma": np.eye(3)}, "8 features"),
        ({"mu": np.full(8, np.nan), "sigma": np.eye(8)}, "NaN"),
        ({"mu": np.zeros(8), "sigma": np.eye(8), "count": np.array(8)}, "8 pictures behind"),
        ({"mu": np.zeros(8), "sigma": np.triu(np.ones((8, 8)))}, "not symmetric"),
        ({"mu": np.zeros(8), "sigma": np.diag([1.0] * 7 + [-1])}, "eigenvalue -1"),
        ({"mu": np.zeros(8), "sigma": 1j * np.eye(8)}, "complex128"),
        ({"mu": np.zeros(8), "sigma": np.eye(8) > 0}, "bool"),
        *(
            ({"mu": np.zeros(8), "sigma": np.eye(8), "count": np.array(count)}, "'count' in .* is")
            for count in ([40, 40], [], 40.5, np.nan, np.inf, -40, 0, 2**63, True, 1j)
        ),
    ],
)
def test_data_that_says_nothing_is_refused(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "data.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(ExportError, match=message):
        _moments(tmp_path / "data.npz", tmp_path / "cache")


def test_no_data_is_said_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no data at"):
        check_data(tmp_path / "nothing")
    with pytest.raises(ExportError, match="holds no image"):
        check_data(tmp_path)
