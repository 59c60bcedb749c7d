"""`dsr-export build` with weights of four bits: batch ranges, whole steps of a sampler, and parts of a pipeline."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from dsr_export.building.part_configs import part_configs
from dsr_export.errors import ExportError
from dsr_export.pipeline import export
from graphs.precisions import Precision
from tests.conftest import Cli
from tests.pipeline_parts import denoiser_config

KINDS = {"int4": "INT4", "nvfp4": "FLOAT4E2M1"}


def _weights(model: Path) -> Counter[str]:
    """Element types of the weights of two axes."""
    graph = onnx.load(model, load_external_data=False).graph
    return Counter(onnx.TensorProto.DataType.Name(each.data_type) for each in graph.initializer if len(each.dims) == 2)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "target"), [("int4", "rtx"), ("nvfp4", "rtx:sm120")])
def test_digits_builds_for_a_range_of_batches_and_as_whole_steps(
    precision: str, target: str, cli: Cli, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx")
    done = cli(
        "build", "digits", "--precision", precision, "--target", target, "--batch", "1,2,4", "--fuse-step", "--json",
        "--out", tmp_path / "b.dsr",
    )  # fmt: skip
    assert done.code == 0, done.err
    report = json.loads(done.out)
    gemms = report[precision]["gemms"]
    assert [gemm for gemm in gemms if gemm["precision"] == precision]
    assert report[precision]["reached_snr_db"] >= report[precision]["aimed_snr_db"]
    assert all(row["passed"] for row in report["parity"])
    _check_cost(report[precision], report["engines"][target]["schedule"])
    for model in (tmp_path / "b.dsr" / "model.onnx", tmp_path / "b.dsr" / "step" / "model.onnx"):
        assert _weights(model)[KINDS[precision]] == sum(gemm["precision"] == precision for gemm in gemms)


def _check_cost(told: dict[str, Any], schedule: dict[str, Any]) -> None:
    """The plan has these launches, and others: its estimates are not far above, and for the same devices."""
    cost = told["cost"]["chosen"]
    assert cost["launches"] < len(schedule["launches"])
    assert set(cost["estimates"]) == set(schedule["estimates"])
    for device, whole in schedule["estimates"].items():
        assert 0.3 < cost["estimates"][device]["graph_ms"] / whole["graph_ms"] < 1


@pytest.mark.slow
def test_gemms_that_no_block_divides_start_at_the_next_format(decoder_bundle: Path, tmp_path: Path) -> None:
    """Of a pipeline's transformer, whose decoder stays as it is: 48 inputs are no blocks of 64, 128 are."""
    asked = denoiser_config(tmp_path / "b.dsr", decoder_bundle)
    bundle = export(replace(asked, precision="int4"))
    gemms = {
        gemm["name"]: gemm["precision"]
        for gemm in json.loads((bundle.path / "report.json").read_text())["int4"]["gemms"]
    }
    assert {each for name, each in gemms.items() if name.endswith("w3")} == {"int4"}
    assert "int4" not in {each for name, each in gemms.items() if not name.endswith("w3")}
    assert _weights(bundle.path / "model.onnx")["INT4"] == sum(each == "int4" for each in gemms.values())


@pytest.mark.parametrize("precision", ["int4", "nvfp4", "nvfp4-weights", "fp8"])
def test_parts_of_a_pipeline_have_no_calibration(precision: Precision, tmp_path: Path) -> None:
    asked = replace(denoiser_config(tmp_path / "b.dsr"), precision=precision)
    assert part_configs(asked, ["vae_decoder"], ("onnxruntime",))["vae_decoder"].precision == "fp16"
    asked = replace(asked, part_precision={"vae_decoder": precision})
    with pytest.raises(ExportError, match=f"vae_decoder can't be built in {precision}: it has no calibration"):
        part_configs(asked, ["vae_decoder"], ("onnxruntime",))
