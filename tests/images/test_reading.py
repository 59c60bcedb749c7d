from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dsr_export.errors import ExportError
from dsr_export.images.reading import open_images

SHAPE = (3, 8, 8)


def picture(path: Path, size: tuple[int, int] = (12, 20), colour: tuple[int, int, int] = (255, 0, 127)) -> None:
    Image.new("RGB", size, colour).save(path)


def test_files_are_resized_and_normalised_in_order_of_name(tmp_path: Path) -> None:
    picture(tmp_path / "b.PNG", colour=(0, 0, 0))
    picture(tmp_path / "a.jpg", colour=(255, 255, 255))
    (tmp_path / "notes.txt").write_text("no image")
    made = list(open_images(tmp_path, SHAPE, "siglip"))
    assert [image.shape for image in made] == [(1, 3, 8, 8)] * 2
    np.testing.assert_allclose(made[0], 1.0, atol=1e-6)  # (1 - 0.5) / 0.5
    np.testing.assert_allclose(made[1], -1.0, atol=1e-6)
    assert made[0].dtype == np.float32


def test_each_family_has_its_own_mean(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", colour=(0, 255, 0))
    (image,) = open_images(tmp_path, SHAPE, "dinov2")
    np.testing.assert_allclose(image[0, :, 0, 0], [-0.485 / 0.229, 0.544 / 0.224, -0.406 / 0.225], rtol=1e-5)


def test_dinov2_keeps_the_middle_and_siglip_the_whole(tmp_path: Path) -> None:
    wide = Image.new("RGB", (64, 8), (0, 0, 0))
    wide.paste((255, 255, 255), (0, 0, 16, 8))  # a white left quarter
    wide.save(tmp_path / "wide.png")
    (whole,), (middle,) = (open_images(tmp_path, SHAPE, family) for family in ("siglip", "dinov2"))
    assert whole[0, 0, 4, 0] > whole[0, 0, 4, -1]
    assert np.ptp(middle[0, 0]) < 1e-6


def test_grey_and_transparent_files_become_rgb(tmp_path: Path) -> None:
    Image.new("L", (9, 9), 255).save(tmp_path / "grey.png")
    Image.new("RGBA", (9, 9), (255, 255, 255, 255)).save(tmp_path / "alpha.png")
    for image in open_images(tmp_path, SHAPE, "siglip"):
        np.testing.assert_allclose(image, 1.0, atol=1e-6)


def test_arrays_are_taken_as_they_are(tmp_path: Path) -> None:
    array = np.random.default_rng(0).standard_normal((3, *SHAPE)).astype(np.float32)
    np.savez(tmp_path / "i.npz", image=array)
    images = open_images(tmp_path / "i.npz", SHAPE, "anything")
    assert len(images) == 3
    np.testing.assert_array_equal(np.concatenate(list(images)), array)
    assert len(list(images)) == 3  # may be walked again


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="holds no image"):
        open_images(tmp_path, SHAPE, "siglip")


def test_an_unreadable_image_is_named(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    with pytest.raises(ExportError, match=r"b\.png is no readable image"):
        list(open_images(tmp_path, SHAPE, "siglip"))


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((2, 3, 8, 9), np.float32), r"shape \[2, 3, 8, 9\], expected \[n, 3, 8, 8\]"),
        (np.zeros((0, 3, 8, 8), np.float32), r"shape \[0, 3, 8, 8\]"),
        (np.zeros((2, 3, 8, 8), np.uint8), "uint8, expected floats"),
        (np.stack([np.zeros(SHAPE), np.full(SHAPE, np.nan)]), "NaN or Inf in image 1"),
    ],
)
def test_wrong_arrays_are_refused(array: np.ndarray, said: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "i.npz", image=array)
    with pytest.raises(ExportError, match=said):
        open_images(tmp_path / "i.npz", SHAPE, "siglip")


def test_a_misnamed_array_is_suggested(tmp_path: Path) -> None:
    np.savez(tmp_path / "i.npz", images=np.zeros((1, *SHAPE), np.float32))
    with pytest.raises(ExportError, match="holds no array 'image'") as refused:
        open_images(tmp_path / "i.npz", SHAPE, "siglip")
    assert "images" in (refused.value.hint or "")


def test_what_is_not_there_and_what_is_no_npz(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no such file or folder"):
        open_images(tmp_path / "nothing", SHAPE, "siglip")
    (tmp_path / "bad.npz").write_text("no arrays")
    with pytest.raises(ExportError, match="no readable npz"):
        open_images(tmp_path / "bad.npz", SHAPE, "siglip")


def test_an_unknown_family_needs_arrays(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    with pytest.raises(ExportError, match="is not known"):
        open_images(tmp_path, SHAPE, "callable")
