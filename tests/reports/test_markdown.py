"""`verify --markdown`: the table of a report."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from dsr_export.reports.markdown import markdown_table
from dsr_export.reports.record import Report
from tests.conftest import Cli
from tests.reports.sample_report import engine_facts, fp8_report

ROW: dict[str, Any] = {
    "runtime": "onnxruntime",
    "check": "batch-1",
    "output": "out",
    "tolerance": {},
    "problem": None,
    "passed": True,
    "snr_db": 69.24,
    "psnr_db": 77.6,
    "cosine": 0.9999999,
    "max_abs": 7.7e-4,
}
CHECK: dict[str, Any] = {"name": "half_weight_fraction", "value": 0.9, "limit": 0.5, "passed": True}


def report(**changes: Any) -> Report:
    names = {"bundle": "/x/digits.dsr", "precision": "fp16", "targets": ["rtx"]}
    return Report.read({**names, "passed": True, "parity": [ROW], "checks": [CHECK], **changes})


def test_a_report_as_a_table() -> None:
    assert markdown_table(report()).splitlines() == [
        "### digits.dsr (fp16, rtx): passed",
        "",
        "| | runtime | check | output | SNR | PSNR | cosine | max abs |",
        "|---|---|---|---|---:|---:|---:|---:|",
        "| ok | onnxruntime | batch-1 | out | 69.2 dB | 77.6 dB | 1.000000 | 7.70e-04 |",
        "",
        "- ok half_weight_fraction: 0.900 (at least 0.50)",
    ]


def test_failures_stand_out_and_names_cannot_break_the_table() -> None:
    bad = {**ROW, "component": "decoder", "output": "a|b\n<img>", "problem": "3 values are NaN", "passed": False}
    lines = markdown_table(report(parity=[bad], checks=[{**CHECK, "passed": False}], passed=False)).splitlines()
    assert lines[0].endswith(": **failed**")
    assert lines[4] == r"| **FAIL** | onnxruntime | batch-1 | decoder/a\|b &lt;img> | 3 values are NaN |  |  |  |"
    assert lines[-1].startswith("- **FAIL** half_weight_fraction")


def test_engines_have_a_line_each() -> None:
    engines = {"rtx": engine_facts(), "trt10": {"schedule": None, "schedule_problem": "the schedule ..."}, "old": {}}
    assert markdown_table(report(engines=engines)).splitlines()[-2:] == [
        "- engine rtx: 7 launches, 0 of 1 attentions fused, 160 kB at batch 2",
        "- engine trt10: the schedule ...",
    ]


def test_verify_writes_it_whole_or_not_at_all(denoiser_bundle: Path, cli: Cli, tmp_path: Path) -> None:
    done = cli("verify", denoiser_bundle, "--markdown", tmp_path / "table.md")
    assert done.code == 0, done.err
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[0] == "### denoiser.dsr (fp32, onnxruntime): passed"
    assert sum(line.startswith("| ok | onnxruntime |") for line in lines) == 8
    missing = cli("verify", denoiser_bundle, "--markdown", tmp_path / "no" / "table.md")
    assert (missing.code, "table.md" in missing.err) == (1, True)
    assert [path.name for path in tmp_path.iterdir()] == ["table.md"]


def test_nothing_is_written_into_the_bundle(denoiser_bundle: Path, cli: Cli) -> None:
    done = cli("verify", denoiser_bundle, "--markdown", denoiser_bundle / "table.md")
    assert (done.code, "lies in the bundle" in done.err) == (1, True)
    assert not (denoiser_bundle / "table.md").exists()


def test_what_formats_cost_is_one_line() -> None:
    cost = fp8_report()["fp8"]["cost"]
    sizes = {"weight_bytes": 1_250_000, "activation_bytes": 2_000_000}
    cost["chosen"] |= sizes | {"estimates": {"l4": {"graph_ms": 0.5}, "thor": {"graph_ms": 0.3}}}
    cost["all_fp16"] |= {**sizes, "weight_bytes": 2_500_000}
    cost["all_fp16"]["estimates"] = {"l4": {"graph_ms": 1.0}, "thor": {"graph_ms": 0.4}, "orin-nx": {"graph_ms": 3.0}}
    told = report(fp8={"cost": cost})
    assert markdown_table(told).splitlines()[-1] == (
        "- GEMMs: 1 FP8, 2 INT8, 1 FP16; weights 1.25 MB and activations 2 MB at batch 2, "
        "all in FP16 weights 2.5 MB and activations 2 MB; "
        "these GEMMs alone are estimated at 0.50 to 0.75 of FP16's time on 2 devices"
    )
    cost["chosen"]["estimates"] = {"l4": {"graph_ms": math.nan}}
    assert markdown_table(told).splitlines()[-1].endswith("2.5 MB and activations 2 MB")
    assert "GEMMs:" not in markdown_table(report(fp8={"method": "mse"}))
