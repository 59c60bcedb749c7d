"""`dsr-export build --calibration-only --shard I/N`, and the build that takes the shares."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Cli
from tests.int8.test_layouts import CODE

NAME = "int8_shares"
ASKED = ("build", f"{NAME}:build", "--precision", "int8", "--batch", "1,2,2", "--calibration", "random:0")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a small model."""
    (tmp_path / f"{NAME}.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_share_is_measured_once_and_goes_with_its_options(cli: Cli, model: Path) -> None:
    first = (*ASKED, "--calibration-only", "--shard", "1/2", "--out", "parts")
    done = cli(*first, "--json", "--target", "trt10")  # nothing is built for it here
    assert done.code == 0, done.err
    assert json.loads(done.out) == {"shard": "1/2", "measured": True, "path": "parts/share-1-of-2"}
    record = model / "parts" / "share-1-of-2" / "part.json"
    before = record.stat().st_mtime_ns
    again = cli(*first)
    assert again.code == 0 and "build with --calibration-parts parts" in again.out
    assert record.stat().st_mtime_ns == before  # it was up to date
    other = cli(*first, "--int8-method", "minmax")
    assert other.code == 1 and "--method outlier-aware, not minmax" in other.err and "--force" in other.err
    assert cli(*first, "--int8-method", "minmax", "--force").code == 0
    assert json.loads(record.read_bytes())["made_for"]["options"]["method"] == "minmax"
    lacking = cli(*ASKED, "--calibration-parts", "parts", "--out", "b.dsr")
    assert lacking.code == 1 and "share 2 of 2 is missing" in lacking.err
    assert cli(*ASKED, "--calibration-only", "--shard", "2/2", "--out", "parts").code == 0
    mixed = cli(*ASKED, "--calibration-parts", "parts", "--out", "b.dsr")
    assert mixed.code == 1 and "share-2-of-2 does not go with parts/share-1-of-2" in mixed.err
    assert sorted(path.name for path in (model / "parts").iterdir()) == ["share-1-of-2", "share-2-of-2"]
    assert not (model / "b.dsr").exists()


@pytest.mark.slow
@pytest.mark.parametrize("of", [2, 3, 7])
def test_shares_build_what_one_machine_builds(cli: Cli, tmp_path: Path, of: int) -> None:
    """On the model with planted outliers; 13 images are four sections, so that some of seven shares are empty."""
    asked = (
        *("build", "digits-outliers", "--precision", "int8", "--target", "onnxruntime", "--batch", "1,2,2"),
        *("--trajectory-steps", "9", "--calibration-images", "13", "--calibration-steps", "5"),
    )
    assert cli(*asked, "--out", tmp_path / "one.dsr").code == 0
    for index in reversed(range(1, of + 1)):
        share = ("--calibration-only", "--shard", f"{index}/{of}", "--out", tmp_path / "parts")
        assert cli(*asked, *share).code == 0
    done = cli(*asked, "--calibration-parts", tmp_path / "parts", "--out", tmp_path / "joined.dsr")
    assert done.code == 0, done.err
    for name in ("calibration.json", "model.onnx", "model.onnx.data"):
        assert (tmp_path / "joined.dsr" / name).read_bytes() == (tmp_path / "one.dsr" / name).read_bytes()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--shard", "1/2"), 2, "--shard goes with --calibration-only"),
        (("--calibration-only", "--shard", "3/2"), 1, "--shard '3/2' is not I/N"),
        (("--calibration-only", "--calibration-parts", "x"), 1, "--calibration-parts does not go with"),
        (("--calibration-only", "--calibration-table", "x"), 1, "--calibration-table does not go with"),
        (("--calibration-parts", "x", "--calibration-table", "x"), 1, "--calibration-table does not go with"),
        (("--calibration-only", "--precision", "fp16"), 1, "do not apply to fp16"),
        (("--calibration-parts", "x", "--precision", "fp16"), 1, "do not apply to fp16"),
        (("--calibration-parts", "none"), 1, "--calibration-parts none does not exist"),
        (("--calibration-parts", "empty"), 1, "--calibration-parts empty holds no share"),
        (("--calibration-parts", "file"), 1, "--calibration-parts file is no folder"),
        (("--calibration-only", "--out", "file"), 1, "file is a file"),
        (("--calibration-only", "--out", "taken"), 1, "share-1-of-1 exists, and is no share that can be read"),
    ],
)
def test_what_is_refused_before_a_model_is_traced(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], code: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "taken" / "share-1-of-1").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    done = cli("build", "digits", "--precision", "int8", "--target", "onnxruntime", *options)
    assert done.code == code and message in done.err, done.err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_share_is_no_bundle_for_a_program_either(tmp_path: Path) -> None:
    from dsr_export.config import ExportConfig
    from dsr_export.declarations.int8_options import Int8Options
    from dsr_export.declarations.share import Share
    from dsr_export.errors import ExportError
    from dsr_export.pipeline import calibrate_share, export

    with pytest.raises(ExportError, match="makes no bundle"):
        export(ExportConfig(precision="int8", int8=Int8Options(share=Share(1, 1)), out=tmp_path / "b.dsr"))
    with pytest.raises(ExportError, match="no share of a calibration is asked for"):
        calibrate_share(ExportConfig(precision="int8", out=tmp_path / "parts"))
    assert list(tmp_path.iterdir()) == []
