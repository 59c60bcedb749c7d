"""FP8 builds as they come are better than ModelOpt's FP8: by 3 dB on a model with outliers."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

from tests.comparisons.fp8_peers import Held, built, bundle_quality, formats, held, peers
from tests.comparisons.scores import Quality

PEER_PYTHON = os.environ.get("DSR_EXPORT_PEER_PYTHON", sys.executable)
has_modelopt = sys.executable != PEER_PYTHON or importlib.util.find_spec("modelopt") is not None
NAME, STEPS, IMAGES = "digits-outliers", 5, 2
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Held:
    return held(NAME, tmp_path_factory.mktemp("held"), steps=STEPS, images=IMAGES)


@pytest.fixture(scope="module")
def ours(known: Held, tmp_path_factory: pytest.TempPathFactory) -> Quality:
    folder = tmp_path_factory.mktemp("built")
    bundle = built(NAME, folder, steps=STEPS, images=IMAGES, target="onnxruntime")
    assert "FP8" in formats(bundle) and "INT8" in formats(bundle)
    return bundle_quality(bundle, known.cases)


def test_what_costs_nothing_is_worth_two_decibels(known: Held, ours: Quality, tmp_path: Path) -> None:
    """Beside a build whose budget asks for none of it."""
    plain = built(NAME, tmp_path, steps=STEPS, images=IMAGES, target="onnxruntime", budget_db=20.0)
    assert ours.median_snr_db > bundle_quality(plain, known.cases).median_snr_db + 2


@pytest.mark.peer
@pytest.mark.skipif(
    not has_modelopt, reason="needs nvidia-modelopt[onnx]; DSR_EXPORT_PEER_PYTHON names its interpreter"
)
def test_modelopt_is_three_decibels_worse_on_outliers(known: Held, ours: Quality) -> None:
    """Both of its ways, and also with our choice of layers."""
    for peer, measure in peers(known, PEER_PYTHON).items():
        theirs = measure()
        assert theirs.snr_db < ours.snr_db - 3 and theirs.median_snr_db < ours.median_snr_db - 3, peer
