"""One word for what numbers were checked with, wherever a person reads it."""

from __future__ import annotations

from typing import Any

import pytest

from dsr_export.cli.printing.report import show_report
from dsr_export.reports.junit import junit
from dsr_export.reports.markdown import markdown_table
from dsr_export.reports.page import report_page
from dsr_export.reports.record import Report
from dsr_export.reports.witness import as_read, runtime_name, witness_of
from graphs.precisions import PRECISIONS
from tests.reports.sample_report import fp8_report, full_report


def _emulated() -> Report:
    told = fp8_report("nvfp4")
    told["nvfp4"]["witness"] = "emulation"
    return Report.read({**told, "passed": True})


def test_formats_without_kernels_are_emulated() -> None:
    assert {name for name in PRECISIONS if witness_of(name) == "emulation"} == {"nvfp4", "nvfp4-weights"}
    assert witness_of("int8", "nvfp4", "fp16") == "emulation"
    assert (witness_of(), witness_of("of another version")) == ("kernels", "kernels")


def test_every_rendering_has_the_word(capsys: pytest.CaptureFixture[str]) -> None:
    report = _emulated()
    show_report(report, as_json=False)
    console = capsys.readouterr().out
    for made in (console, markdown_table(report), report_page(report), junit(report)):
        assert "emulation" in made
        assert "onnxruntime" not in made.replace("onnxruntime.onnx", "")
    assert "emulation    1 pictures" in console and "tensorrt_rtx (rtx:sm89)" in console
    assert {row.runtime for row in report.parity} == {"onnxruntime", "tensorrt_rtx"}  # in report.json what ran


def test_kernels_keep_their_name() -> None:
    assert as_read(Report.read(full_report())).parity == Report.read(full_report()).parity
    told = fp8_report("nvfp4")  # every GEMM went up to what has kernels
    assert (
        runtime_name(Report.read({**told, "nvfp4": {**told["nvfp4"], "witness": "kernels"}}), "onnxruntime")
        == "onnxruntime"
    )


@pytest.mark.parametrize(
    ("precision", "said"), [("nvfp4", "emulation"), ("fp16", "onnxruntime"), ("new", "onnxruntime")]
)
def test_a_component_is_told_by_its_precision(precision: str, said: str) -> None:
    told: dict[str, Any] = {**full_report(), "components": {"decoder": {"name": "d", "precision": precision}}}
    report = Report.read(told)
    assert runtime_name(report, "onnxruntime", "decoder") == said
    assert runtime_name(report, "tensorrt_rtx", "decoder") == "tensorrt_rtx"
    assert runtime_name(report, "onnxruntime") == runtime_name(report, "onnxruntime", "encoder") == "onnxruntime"
