"""A small bundle, made of every kind of file a real one holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dsr_export.bundle.manifest import BundleTarget, Manifest
from dsr_export.bundle.writer import write_bundle
from dsr_export.config import BatchRange
from graphs.artifacts import TensorSpec
from tests.bundle.sample_files import WEIGHTS, external_model, golden_bytes


@pytest.fixture
def contents() -> dict[str, Path | bytes]:
    return {
        "model.onnx": external_model("model.onnx.data"),
        "model.onnx.data": WEIGHTS.tobytes(),
        "engines/rtx.plan": bytes(range(256)) * 8,
        "golden.npz": golden_bytes(),
        "report.json": b'{\n "passed": true\n}',
    }


@pytest.fixture
def manifest() -> Manifest:
    return Manifest(
        name="digits",
        model={"name": "digits", "family": "rae-dit", "config": {"depth": 8}, "num_classes": 10},
        dsr={"denoiser": {"kind": "diffusion", "registers": 4}},
        precision="fp16",
        targets=(
            BundleTarget(
                name="rtx",
                backend="tensorrt_rtx",
                version="1.7.1",
                compute_capabilities=("8.6", "8.9"),
                engine="engines/rtx.plan",
                facts={"layers": 3},
            ),
            BundleTarget(name="onnxruntime", backend="onnxruntime", version="1.31.1"),
        ),
        inputs=(TensorSpec(name="x", dtype="float32", shape=("batch", 1024)),),
        outputs=(TensorSpec(name="out", dtype="float32", shape=("batch", 1024)),),
        batch=BatchRange(1, 2, 8),
        sampler={
            "num_steps": 50,
            "prediction": "data",
            "shift_dim": 256,
            "shift_base": 4096,
            "guidance": 1.5,
            "null_label": 10,
        },
        tolerances={"max_abs": None, "cosine": 0.9995, "psnr_db": 45.0, "snr_db": 40.0, "reason": "11-bit mantissa"},
        tools={"numpy": "2.4.6"},
        provenance={"checkpoint_sha256": "00", "git_revision": None},
        build_key="a" * 64,
        range_audit={"kept_fp32": {}, "runs": 3},
    )


@pytest.fixture
def bundle(tmp_path: Path, manifest: Manifest, contents: dict[str, Any]) -> Path:
    """A bundle as written, in a folder of its own."""
    return write_bundle(tmp_path / "digits.dsr", manifest, contents)
