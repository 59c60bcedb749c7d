"""INT8 of a planted pipeline, calibrated and measured on its own walks, beside INT8 with one range per tensor."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dsr_export.config import BatchRange, ExportConfig
from dsr_export.declarations.int8_options import Int8Options
from tests.comparisons.planted_sd3 import plant_channels
from tests.diagnosis.streams.planted_pipeline import SIZES, planted_pipeline

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # diffusers, of NumPy 2
]
OURS, PER_TENSOR = "outlier-aware", ("minmax", "mse")
MARGIN_DB = 6.0
CHANNELS = (7,)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """SD3 with sinks in both streams, and outlier channels besides."""
    diffusers = pytest.importorskip("diffusers", reason="the models extra is not installed")
    path = planted_pipeline(tmp_path) / "transformer"
    transformer = diffusers.SD3Transformer2DModel.from_pretrained(path)
    with torch.no_grad():
        for block in transformer.transformer_blocks:
            plant_channels(block, transformer.inner_dim, CHANNELS)
    transformer.save_pretrained(path)
    return path.parent


def test_int8_of_its_own_walks_is_six_decibels_better_than_per_tensor_int8(folder: Path, stage_cache: Path) -> None:
    """Every GEMM in INT8; what is held against FP32 is a walk of other prompts and noise."""
    from dsr_export.pipeline import export

    found = {}
    for method in (OURS, *PER_TENSOR):
        config = ExportConfig(
            model_dir=folder,
            options=SIZES,
            precision="int8",
            int8=Int8Options(method=method, steps=8, budget_db=0.0),
            targets=("onnxruntime",),
            batch=BatchRange(1, 2, 2),
            out=folder.parent / f"{method}.dsr",
        )
        report = export(config).report()
        assert {each["precision"] for each in report["int8"]["gemms"]} == {"int8"}
        found[method] = min(each["snr_db"] for each in report["parity"] if each["check"] == "walk")
    assert found[OURS] > 18, found
    assert found[OURS] >= max(found[method] for method in PER_TENSOR) + MARGIN_DB, found
