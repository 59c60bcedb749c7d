"""`dsr-export build --precision int8`, on the packaged model with planted outliers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from dsr_export.bundle.reader import ENGINE_MODEL, Bundle
from graphs.weights.packed import packed_size
from tests.conftest import Cli

FEW = ("--trajectory-steps", "9", "--calibration-images", "2", "--batch", "1,2,2")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, stage_cache: Path) -> Path:
    from dsr_export.config import BatchRange, ExportConfig
    from dsr_export.declarations.int8_options import Int8Options
    from dsr_export.pipeline import export

    out = tmp_path_factory.mktemp("int8") / "d.dsr"
    config = ExportConfig(
        model="digits-outliers",
        precision="int8",
        targets=("rtx", "onnxruntime"),
        batch=BatchRange(1, 2, 2),
        trajectory_steps=9,
        int8=Int8Options(images=2),
        out=out,
    )
    return export(config).path


def test_the_numbers_hold_and_nearly_all_arithmetic_is_int8(bundle: Path) -> None:
    report = Bundle.open(bundle).report()
    assert report["passed"] is True
    assert min(row["snr_db"] for row in report["parity"]) > 35  # plain per-tensor ranges end below 30 here
    assert "fused" in {row["check"] for row in report["parity"]}  # the integer kernels of this machine
    assert report["int8"]["int8_flops_share"] > 0.9
    gemms = {gemm["name"]: gemm for gemm in report["int8"]["gemms"]}
    assert list(gemms).index("blocks.2.attn.qkv") < list(gemms).index("blocks.7.attn.qkv")
    assert set(gemms["blocks.7.attn.qkv"]["roles"]) >= {"register", "patch"}
    assert "register" not in gemms["blocks.0.attn.qkv"]["roles"]  # they join at block 2
    assert report["engines"]["rtx"]["layer_output_types"]["int8"] >= 32
    assert report["engines"]["rtx"]["schedule"] is not None and report["advice"] == []  # what --strict would fail on


def test_the_report_says_what_the_formats_cost_beside_fp16(bundle: Path) -> None:
    report = Bundle.open(bundle).report()
    cost, schedule = report["int8"]["cost"], report["engines"]["rtx"]["schedule"]
    assert cost["batch"] == schedule["batch"] == 2
    assert cost["chosen"]["weight_bytes"] == _stored(bundle / ENGINE_MODEL)
    assert cost["chosen"]["weight_bytes"] < 0.6 * cost["all_fp16"]["weight_bytes"]
    assert cost["chosen"]["gemms"] == cost["all_fp16"]["gemms"] == len(report["int8"]["gemms"])
    assert set(cost["chosen"]["estimates"]) == set(schedule["estimates"])
    for device, whole in schedule["estimates"].items():  # GEMMs alone take part of what the engine takes
        ours, floats = (cost[key]["estimates"][device]["graph_ms"] for key in ("chosen", "all_fp16"))
        assert 0.1 * whole["graph_ms"] < ours < whole["graph_ms"] and ours < floats


def test_the_report_says_what_engines_have_of_the_codes(bundle: Path) -> None:
    gemms = Bundle.open(bundle).report()["int8"]["gemms"]
    names = [str(node.name) for node in onnx.load(bundle / ENGINE_MODEL, load_external_data=False).graph.node]
    floats = {gemm["name"] for gemm in gemms if gemm["engine_floats"]}
    assert floats == {f"blocks.{i}.attn.proj" for i in range(8)}
    assert not [name for name in names if name.endswith("attn.proj/codes")]
    coded = {gemm["name"] for gemm in gemms if gemm["coded_product"]}
    assert coded == {name.split("/")[2] for name in names if name.endswith("/product_codes")}
    assert coded and not coded & floats


_STORED = ("/weight", "/weight_steps", "/channel_sizes", "/float_weight")
"""Constants of a GEMM that was chosen for codes."""


def _stored(model: Path) -> int:
    """Bytes of codes and of their steps."""
    graph = onnx.load(model, load_external_data=False).graph
    ours = [each for each in graph.initializer if each.name.removesuffix(".float16").endswith(_STORED)]
    return sum(packed_size(int(np.prod(each.dims)), each.data_type) for each in ours)


def test_the_artefact_is_what_was_asked_for(bundle: Path) -> None:
    model = onnx.load(bundle / "model.onnx")
    integer = [node for node in model.graph.node if node.op_type == "MatMul" and "dequantized_weight" in node.input[1]]
    assert len(integer) == 32 + 1  # four in each of eight blocks, and all AdaLNs in one
    assert {tensor.data_type for tensor in model.graph.initializer if tensor.name.endswith("/weight")} == {3}


@pytest.mark.slow
def test_the_table_ships_and_can_be_used_again(bundle: Path, cli: Cli, tmp_path: Path) -> None:
    table = bundle / "calibration.json"
    args = ("build", "digits-outliers", "--precision", "int8", "--target", "onnxruntime", "--json", *FEW)
    done = cli(*args, "--calibration-table", table, "--out", tmp_path / "again.dsr")
    assert done.code == 0, done.err
    assert json.loads(done.out)["passed"] is True
    assert (tmp_path / "again.dsr" / "calibration.json").read_bytes() == table.read_bytes()


def test_a_table_of_another_model_is_refused_by_hash(bundle: Path, cli: Cli, tmp_path: Path) -> None:
    done = cli(
        "build", "digits", "--precision", "int8", "--target", "onnxruntime", *FEW,
        "--calibration-table", bundle / "calibration.json", "--out", tmp_path / "no.dsr",
    )  # fmt: skip
    known = json.loads((bundle / "calibration.json").read_bytes())["model_sha256"]
    assert (done.code, known in done.err) == (1, True)
    assert not (tmp_path / "no.dsr").exists()


@pytest.mark.slow
def test_an_impossible_budget_ends_with_the_best_found(cli: Cli, tmp_path: Path) -> None:
    done = cli(
        "build", "digits-outliers", "--precision", "int8", "--target", "onnxruntime", "--json", *FEW,
        "--int8-budget", "95", "--out", tmp_path / "b.dsr",
    )  # fmt: skip
    report = json.loads(done.out)
    assert (done.code, report["passed"]) == (3, False)
    left = [gemm["name"] for gemm in report["int8"]["gemms"] if gemm["precision"] == "int8"]
    assert left and all("adaLN" in name for name in left)  # conditions have twice the bits, and stay
    assert np.isfinite(report["int8"]["reached_snr_db"])


def test_calibration_options_without_int8_are_refused(cli: Cli, tmp_path: Path) -> None:
    done = cli("build", "--precision", "fp16", "--int8-budget", "30", "--out", tmp_path / "no.dsr")
    assert (done.code, "give --precision int8" in done.err) == (1, True)
