"""`dsr-export build --precision fp8`: GEMMs in FP8, in INT8 where that costs too much, and what is said of both."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import pytest

from dsr_export.bundle.reader import Bundle
from dsr_export.parity.tolerances import TOLERANCES
from dsr_export.verification.verify import verify
from tests.conftest import Cli
from tests.int8.test_layouts import CODE

NAME = "fp8_blocks"
ASKED = ("build", f"{NAME}:build", "--target", "onnxruntime", "--batch", "1,2,2", "--calibration", "random:0")
FP8 = (*ASKED, "--precision", "fp8")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a small model of four GEMMs."""
    (tmp_path / f"{NAME}.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_build_holds_and_says_what_it_is(cli: Cli, folder: Path) -> None:
    done = cli(*FP8, "--json", "--out", "b.dsr")
    assert done.code == 0, done.err
    told = json.loads(done.out)["fp8"]
    assert (told["aimed_snr_db"], told["budget_snr_db"]) == (26.0, TOLERANCES["fp8"].snr_db)
    assert told["reached_snr_db"] >= 27 and told["fp8_flops_share"] == pytest.approx(16 / 17)
    assert {gemm["precision"] for gemm in told["gemms"]} == {"fp8"}
    assert _codes(folder / "b.dsr" / "model.onnx") == {"FLOAT8E4M3FN": 4}
    bundle = Bundle.open(folder / "b.dsr")
    assert (bundle.manifest.precision, bundle.manifest.tolerances["snr_db"]) == ("fp8", 20.0)
    assert [each["format"] for each in told["cost"]["formats"]] == ["fp8"]
    assert told["cost"]["chosen"]["not_estimated"]["orin-agx"] == "orin-agx has no FP8"
    assert "4 of 4 GEMMs compute in FP8, 94 % of the FLOPs" in (folder / "b.dsr" / "report.html").read_text()
    verified = verify(folder / "b.dsr")
    assert verified["passed"] and verified["fp8"] == told and "fp8" in verified["from_build"]
    assert {check["name"] for check in verified["checks"]} >= {"fp8_weight_fraction"}


def test_what_the_budget_does_not_allow_takes_int8_and_then_fp16(cli: Cli, folder: Path) -> None:
    """`--int8-budget` is the same option."""
    found = {}
    for option, budget in (("--budget", "32"), ("--int8-budget", "47")):
        done = cli(*FP8, option, budget, "--json", "--out", f"{budget}.dsr")
        assert done.code in (0, 3), done.err  # other calls than those that formats are chosen by may lose more
        report = json.loads(done.out)
        told = report["fp8"]
        assert told["aimed_snr_db"] == told["budget_snr_db"] == float(budget)
        assert _told_as_chosen(told["gemms"], folder / f"{budget}.dsr" / "calibration.json")
        found[budget] = Counter(gemm["precision"] for gemm in told["gemms"])
        assert _codes(folder / f"{budget}.dsr" / "model.onnx") == _types(found[budget])
    assert found["32"]["fp8"] and found["32"]["int8"] and not found["32"]["fp16"]
    assert found["47"]["int8"] and found["47"]["fp16"] and not found["47"]["fp8"]
    done = cli(*FP8, "--budget", "95", "--out", "no.dsr")
    assert (done.code, "hint: lower --budget, or build with fp16" in done.err) == (1, True), done.err
    assert not (folder / "no.dsr").exists()


def test_what_was_calibrated_for_int8_is_not_for_fp8(cli: Cli, folder: Path) -> None:
    int8 = (*ASKED, "--precision", "int8")
    assert cli(*int8, "--calibration-only", "--out", "parts").code == 0
    done = cli(*FP8, "--calibration-parts", "parts", "--out", "no.dsr")
    assert done.code == 1 and "parts/share-1-of-1 was measured for another build: --precision int8, not fp8" in done.err
    done = cli(*int8, "--calibration-parts", "parts", "--out", "int8.dsr")
    assert done.code == 0, done.err
    done = cli(*FP8, "--calibration-table", "int8.dsr/calibration.json", "--out", "no.dsr")
    assert done.code == 1 and "the calibration table is of another precision" in done.err
    assert not (folder / "no.dsr").exists()


def _told_as_chosen(gemms: list[dict[str, Any]], table: Path) -> bool:
    """Rows and clipping are those of the format that a GEMM has; of FP8 where it stays FP16."""
    content = json.loads(table.read_bytes())
    for gemm in gemms:
        entry = content["activations"][content["gemms"][gemm["name"]]["activation"]]
        own = entry["finer"][0] if gemm["precision"] == "int8" else entry
        assert (gemm["rows"], gemm["clipped"]) == (own["rows"], own["clipped"])
        assert gemm["snr_db"]["chosen"] == entry["snr_db"]
    return True


def _types(formats: Counter[str]) -> dict[str, int]:
    names = {"fp8": "FLOAT8E4M3FN", "int8": "INT8"}
    return {names[each]: count for each, count in formats.items() if each in names}


def _codes(model: Path) -> dict[str, int]:
    """Types of the weights that are dequantised."""
    graph = onnx.load(model).graph
    kinds: dict[str, Any] = {
        tensor.name: onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in graph.initializer
    }
    read = (node.input[0] for node in graph.node if node.op_type == "DequantizeLinear")
    return dict(Counter(kinds[name] for name in read if name in kinds))
