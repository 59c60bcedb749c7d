"""Planted defects: a bundle with one fails, and the search names the block that it was planted in."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import pytest

from dsr_export.bundle.reader import Bundle
from dsr_export.bundle.writer import write_bundle
from dsr_export.config import ExportConfig
from dsr_export.pipeline import export
from dsr_export.verification.verify import verify
from tests.parity.defects import DEFECTS, Defect, Graph

Bundles = Mapping[str, Bundle]
QUICK = ("replacement-bypassed", "stale-quantiser", "halves-swapped")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory, stage_cache: Path) -> Bundles:
    folder = tmp_path_factory.mktemp("sound")
    configs = {
        model: ExportConfig(
            model=model, precision="fp16", targets=("onnxruntime",), trajectory_steps=4, out=folder / f"{model}.dsr"
        )
        for model in ("digits", "digits-outliers")
    }
    return {model: export(config) for model, config in configs.items()}


def _planted(bundle: Bundle, defect: Defect, out: Path) -> Path:
    """The bundle with the defect and honest hashes."""
    model = onnx.load(bundle.file("model.onnx"))
    defect.edit(Graph(model), defect.block)
    contents: dict[str, Path | bytes] = {name: bundle.file(name) for name in bundle.manifest.files}
    contents["model.onnx"] = model.SerializeToString()
    return write_bundle(out, dataclasses.replace(bundle.manifest, files={}), contents)


def _found(bundles: Bundles, defect: Defect, out: Path) -> dict[str, Any]:
    report = verify(_planted(bundles[defect.model], defect, out), runtime="onnxruntime")
    assert not report["passed"], f"{defect} passes"
    found: dict[str, Any] = report["bisection"]
    return found


@pytest.mark.slow
def test_defects_fail_and_are_named(bundles: Bundles, tmp_path: Path) -> None:
    named = {str(d): _found(bundles, d, tmp_path / f"{i}.dsr")["site"] for i, d in enumerate(DEFECTS)}
    wrong = {str(d): named[str(d)] for d in DEFECTS if named[str(d)] != d.site}
    assert not wrong, f"{len(wrong)} of {len(DEFECTS)} named wrongly"


@pytest.mark.parametrize("defect", [d for d in DEFECTS if d.name in QUICK], ids=str)
def test_a_defect_is_named_with_its_figures(bundles: Bundles, defect: Defect, tmp_path: Path) -> None:
    found = _found(bundles, defect, tmp_path / "bad.dsr")
    assert found["site"] == defect.site
    assert found["module"].startswith((defect.site, f"replacements.{defect.block}"))
    assert found["snr_db"] < found["tolerance_db"]
    assert set(found["roles"]) >= {"register", "patch"}
    assert all(role["snr_db"] is not None and role["tokens"] > 0 for role in found["roles"].values())
    curve = {point["site"]: point["snr_db"] for point in found["curve"]}
    assert curve[f"blocks.{defect.block - 1}"] > 55 > curve[f"blocks.{defect.block + 1}"]


@pytest.mark.slow
def test_sound_bundles_pass_again_and_again_and_nothing_is_named(bundles: Bundles) -> None:
    for bundle in [*bundles.values()] * 2:
        report = verify(bundle.path, runtime="onnxruntime", sites=True)
        assert report["passed"]
        assert report["bisection"]["site"] is None and report["bisection"]["problem"] is None
        built = {point["site"]: point["snr_db"] for point in bundle.report()["sites"]}
        measured = {point["site"]: point["snr_db"] for point in report["bisection"]["curve"]}
        assert measured == pytest.approx(built, abs=3.0)
