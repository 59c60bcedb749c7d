"""junit.xml: what Jenkins' schema asks for, GitLab's names, and the figures in the message."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

from dsr_export.reports.junit import junit
from dsr_export.reports.record import Report
from tests.reports.sample_report import full_report, parity_row

_ATTRIBUTES = {
    "testsuites": {"name", "tests", "failures", "errors", "time"},
    "testsuite": {"name", "tests", "failures", "errors", "skipped", "time"},
    "testcase": {"classname", "name", "time"},
    "failure": {"message", "type"},
    "skipped": {"message"},
    "property": {"name", "value"},
    "properties": set(),
}
_CHILDREN = {
    "testsuites": {"testsuite"},
    "testsuite": {"properties", "testcase"},
    "properties": {"property"},
    "testcase": {"failure", "skipped"},
    "failure": set(),
    "skipped": set(),
    "property": set(),
}


def _checked(report: dict[str, Any]) -> ElementTree.Element:
    """The document, as Jenkins' junit-10.xsd has it: elements, attributes, and counts that add up."""
    root = ElementTree.fromstring(junit(Report.read(report)).encode())
    assert root.tag == "testsuites"
    for node in root.iter():
        assert set(node.attrib) == _ATTRIBUTES[node.tag], node.tag
        assert {child.tag for child in node} <= _CHILDREN[node.tag], node.tag
    for node in [root, *root.iter("testsuite")]:
        cases = list(node.iter("testcase"))
        assert int(node.attrib["tests"]) == len(cases) > 0
        assert int(node.attrib["failures"]) == sum(case.find("failure") is not None for case in cases)
        assert float(node.attrib["time"]) == pytest.approx(sum(float(c.attrib["time"]) for c in cases), abs=0.01)
    for suite in root.iter("testsuite"):
        assert suite[0].tag == "properties"  # the schema has them first
    names = [(case.attrib["classname"], case.attrib["name"]) for case in root.iter("testcase")]
    assert len(set(names)) == len(names)
    return root


def _messages(root: ElementTree.Element) -> dict[str, str]:
    failures = {case.attrib["name"]: case.find("failure") for case in root.iter("testcase")}
    return {name: failure.attrib["message"] for name, failure in failures.items() if failure is not None}


def test_one_case_for_each_row_and_check_with_its_time() -> None:
    root = _checked(full_report())
    assert [(s.attrib["name"], s.attrib["tests"], s.attrib["time"]) for s in root] == [
        ("onnxruntime", "2", "4.000"),
        ("tensorrt_rtx", "1", "1.000"),
        ("checks", "2", "0.000"),
        ("engines not run", "1", "0.000"),
    ]
    assert next(root.iter("testcase")).attrib["classname"] == "dit.onnxruntime"
    properties = {p.attrib["name"]: p.attrib["value"] for p in root[0].iter("property")}
    sealed = {"manifest_digest": "0f" * 32, "signed_by": "sha256:" + "0f" * 32}
    assert properties == {"precision": "int8", "target": "rtx", "bundle": "some/dit.dsr", **sealed}


def test_an_engine_that_was_not_run_is_a_skipped_case() -> None:
    suite = _checked(full_report())[-1]
    assert (suite.attrib["skipped"], suite.attrib["failures"]) == ("1", "0")
    (case,) = suite.iter("testcase")
    assert case.attrib["name"] == "decoder: engines/rtx.plan"
    assert [node.attrib["message"] for node in case.iter("skipped")] == ["there is no GPU <&>"]


def test_failures_say_what_was_measured_and_what_is_needed() -> None:
    root = _checked(full_report())
    said = _messages(root)
    assert said["trajectory sample"] == ("cosine 0.970000, at least 0.995 needed; SNR 12.2 dB, at least 20 dB needed")
    assert said["half weight fraction"] == "0.250, at least 0.50 needed"
    (failure,) = (case.find("failure") for case in root.iter("testcase") if case.attrib["name"] == "trajectory sample")
    assert failure is not None and "mean abs 0.001" in str(failure.text)


def test_what_xml_cannot_hold_is_replaced() -> None:
    assert (
        _messages(_checked(full_report()))["batch-8 out"] == "12 of 64 values are NaN \N{REPLACEMENT CHARACTER}[0m <&>"
    )


def test_a_bound_on_the_largest_error_is_named() -> None:
    tolerance = {"max_abs": 1e-4, "cosine": 0.9, "psnr_db": 0.0, "snr_db": 0.0, "reason": ""}
    row = parity_row(tolerance=tolerance, passed=False)
    said = _messages(_checked({**full_report(), "parity": [row]}))
    assert said["batch-8 out"] == "max abs 0.02, at most 0.0002 allowed"


def test_components_and_second_engines_are_told_apart() -> None:
    stages = [{"name": "decoder/parity-onnxruntime", "seconds": 3.0, "cached": False}]
    rows = [parity_row(), parity_row(), parity_row(component="decoder")]
    root = _checked({**full_report(), "parity": rows, "stages": stages})
    assert [(s.attrib["name"], s.attrib["time"]) for s in root][:2] == [
        ("onnxruntime", "0.000"),
        ("decoder.onnxruntime", "3.000"),
    ]
    assert [case.attrib["name"] for case in root[0].iter("testcase")] == ["batch-8 out", "batch-8 out #2"]
