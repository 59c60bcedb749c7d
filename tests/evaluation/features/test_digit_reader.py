"""The packaged reader reads digits, and its packaged data are those of scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

from dsr_export.errors import ExportError
from dsr_export.evaluation.features.digit_reader import PackagedReader
from dsr_export.evaluation.moments import Moments
from dsr_export.pipelines.pictures import pictures
from dsr_export.training.digits import load_images


def test_real_digits_are_read_and_are_the_packaged_data() -> None:
    reader = PackagedReader()
    images, labels = load_images()
    extracted = reader(pictures(np.asarray(images)))
    assert extracted.logits is not None
    assert (extracted.logits.argmax(axis=1) == labels.numpy()).mean() > 0.99
    own = Moments.of(extracted.features)
    assert reader.real.count == own.count == 1797
    np.testing.assert_allclose(reader.real.mean, own.mean, atol=2e-4)
    np.testing.assert_allclose(reader.real.covariance, own.covariance, atol=2e-4)


def test_grey_pictures_of_files_are_read() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 1)).astype(np.uint8)
    reader = PackagedReader()
    found = reader(np.repeat(grey, 3, axis=3)).features
    np.testing.assert_allclose(found, reader(grey).features, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 8, 8, 1), (1, 16, 16, 3)])
def test_other_pictures_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ExportError, match=f"these are {'x'.join(map(str, shape[1:]))}"):
        PackagedReader()(np.arange(np.prod(shape)).reshape(shape).astype(np.uint8))
