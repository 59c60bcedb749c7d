"""`verify --junit --html`: files beside the bundle, never in it, and not after minutes of work in vain."""

from __future__ import annotations

import dataclasses
import json
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

from dsr_export.bundle.reader import Bundle
from dsr_export.bundle.writer import write_bundle
from dsr_export.errors import ExportError
from dsr_export.reports.record import Report
from dsr_export.reports.written_files import ReportOutputs
from tests.conftest import Cli
from tests.html.reading import check_document
from tests.pipeline_parts import rewritten
from tests.reports.sample_report import full_report


def test_verify_writes_both_and_nothing_into_the_bundle(digits_bundle: Path, cli: Cli, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(digits_bundle, tmp_path / "copy.dsr"))
    before = {path: path.stat().st_mtime_ns for path in [copy, *copy.rglob("*")]}
    done = cli("verify", copy, "--junit", tmp_path / "j.xml", "--html", tmp_path / "p.html")
    assert done.code == 0, done.err
    assert {path: path.stat().st_mtime_ns for path in [copy, *copy.rglob("*")]} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy.dsr", "j.xml", "p.html"]
    root = ElementTree.parse(tmp_path / "j.xml").getroot()
    assert (root.get("tests"), root.get("failures")) == ("16", "0")
    assert float(root.get("time") or 0) > 0
    page = (tmp_path / "p.html").read_text()
    check_document(page)
    assert "Verification of digits" in page and "Token norms before and after replacement" in page


def test_a_failed_verification_is_written_too(denoiser_bundle: Path, cli: Cli, tmp_path: Path) -> None:
    model = onnx.load(denoiser_bundle / "model.onnx")
    (bias,) = (t for t in model.graph.initializer if t.name == "final_layer.linear.bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + 1, bias.name))
    drifted = rewritten(denoiser_bundle, tmp_path / "drifted.dsr", {"model.onnx": model.SerializeToString()})
    done = cli("verify", drifted, "--junit", tmp_path / "j.xml", "--html", tmp_path / "p.html")
    assert done.code == 3
    root = ElementTree.parse(tmp_path / "j.xml").getroot()
    assert int(root.get("failures") or 0) >= 4
    assert all("needed" in failure.attrib["message"] for failure in root.iter("failure"))
    assert 'class="verdict bad"' in (tmp_path / "p.html").read_text()


def test_a_bundle_of_before_is_still_verified(denoiser_bundle: Path, cli: Cli, tmp_path: Path) -> None:
    """Its report lacks what is new, and it has neither page nor JUnit file."""
    opened = Bundle.open(denoiser_bundle)
    new = ("from_build", "samples", "token_norms", "files", "model", "rewrite_details")
    report = {key: value for key, value in opened.report().items() if key not in new}
    contents: dict[str, Path | bytes] = {name: opened.file(name) for name in ("model.onnx", "golden.npz")}
    contents["report.json"] = json.dumps(report).encode()
    old = write_bundle(tmp_path / "old.dsr", dataclasses.replace(opened.manifest, files={}), contents)
    done = cli("verify", old, "--html", tmp_path / "p.html")
    assert done.code == 0, done.err
    page = (tmp_path / "p.html").read_text()
    check_document(page)
    assert "Token norms" not in page


@pytest.mark.parametrize(
    ("junit", "html", "said"),
    [
        ("b.dsr/junit.xml", None, "lies in the bundle"),
        (None, "b.dsr/new/../page.html", "lies in the bundle"),
        (None, "link/page.html", "lies in the bundle"),
        ("nowhere/j.xml", None, "which is no folder"),
        (None, "folder", "is a folder"),
        ("same", "same", "same file"),
    ],
)
def test_bad_places_are_refused_before_the_work(
    junit: str | None, html: str | None, said: str, cli: Cli, tmp_path: Path
) -> None:
    (tmp_path / "b.dsr").mkdir()  # no bundle: had the work begun, it would fail on that
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "b.dsr")
    asked = [("--junit", junit), ("--html", html)]
    done = cli("verify", tmp_path / "b.dsr", *(p for name, v in asked if v is not None for p in (name, tmp_path / v)))
    assert done.code == 1
    assert said in done.err
    assert not list((tmp_path / "b.dsr").iterdir())


def test_a_page_that_cannot_be_drawn_leaves_the_old_one(tmp_path: Path) -> None:
    page = tmp_path / "p.html"
    page.write_text("old")
    with pytest.raises(ExportError, match="typing is 1, expected an object"):
        ReportOutputs(html=page).write(Report.read({**full_report(), "typing": 1}))
    assert page.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["p.html"]
