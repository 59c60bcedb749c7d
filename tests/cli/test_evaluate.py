"""`dsr-export evaluate` on bundles: figures, limits, and what is refused before the work."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from dsr_export.bundle.reader import Bundle
from dsr_export.config import ModelRequest
from dsr_export.errors import ExportError
from dsr_export.evaluation.references import torch_reference
from tests.conftest import Cli
from tests.pipeline_parts import DENOISER, rewritten
from tests.pipelines.handmade import pipeline_bundle as handmade_pipeline

FEW = ("--steps", "2", "--guidance", "1")


def test_a_bundle_against_pytorch_and_packaged_data(digits_bundle: Path, cli: Cli, tmp_path: Path) -> None:
    files = {name: tmp_path / f"made.{name}" for name in ("json", "html", "xml")}
    written = ("-o", files["json"], "--html", files["html"], "--junit", files["xml"])
    limits = ("--max", "fid=+1", "--min", "psnr=30", "--min", "class-accuracy=-0.05")
    done = cli("evaluate", digits_bundle, "--reference", "pytorch", "--count", "72", *FEW, *limits, *written)
    assert done.code == 0, done.err
    found = json.loads(files["json"].read_text())
    assert found["passed"] and set(found["metrics"]) == {"fid", "is", "psnr", "ssim", "class-accuracy"}
    assert found["metrics"]["psnr"]["value"] > 45 and found["metrics"]["class-accuracy"]["value"] > 0.5
    assert abs(found["metrics"]["fid"]["difference"]["value"]) < found["metrics"]["fid"]["value"]
    assert files["html"].read_text().count("<img") == 48
    assert ElementTree.parse(files["xml"]).getroot().get("failures") == "0"
    again = cli("evaluate", digits_bundle, "--reference", "pytorch", "--count", "72", *FEW, *limits, "--json")
    assert json.loads(again.out) == found


def test_a_defect_fails_the_gate(digits_bundle: Path, cli: Cli, tmp_path: Path) -> None:
    model = onnx.load(digits_bundle / "model.onnx")
    largest = max(model.graph.initializer, key=lambda tensor: int(np.prod(tensor.dims)))
    largest.CopyFrom(
        numpy_helper.from_array(numpy_helper.to_array(largest) * np.float32(1.1).astype(np.float16), largest.name)
    )
    broken = rewritten(digits_bundle, tmp_path / "broken.dsr", {"model.onnx": model.SerializeToString()})
    junit = tmp_path / "made.xml"
    done = cli(
        *("evaluate", broken, "--reference", digits_bundle, "--count", "8", *FEW, "--metrics", "psnr"),
        *("--min", "psnr=50", "--junit", junit),
    )
    assert done.code == 3 and "--min psnr=50 fails" in done.out
    assert ElementTree.parse(junit).getroot().get("failures") == "1"
    same = cli(
        "evaluate",
        digits_bundle,
        "--reference",
        digits_bundle,
        "--count",
        "8",
        *FEW,
        "--metrics",
        "psnr",
        "--min",
        "psnr=50",
    )
    assert same.code == 0 and "8 of 8 pictures equal" in same.out


def test_shares_are_measured_apart(digits_bundle: Path, cli: Cli) -> None:
    asked = ("evaluate", digits_bundle, "--count", "72", *FEW, "--seed", "5", "--metrics", "is")
    for share in ("2/2", "1/2"):
        done = cli(*asked, "--shard", share)
        assert done.code == 0 and f"shard {share} is measured" in done.out
    said = json.loads(cli(*asked, "--shard", "1/2", "--json").out)
    assert (said["shard"], said["measured"]) == ("1/2", True)
    assert all(re.fullmatch("evaluation-part/[0-9a-f]{64}", place) for place in said["stages"])
    assert cli(*asked).code == 0


def test_latents_go_through_the_bundles_decoder(pipeline_bundle: Path, denoiser_bundle: Path, cli: Cli) -> None:
    asked = ("--count", "4", *FEW, "--metrics", "psnr")
    done = cli("evaluate", pipeline_bundle, "--reference", pipeline_bundle, *asked)
    assert done.code == 0 and "4 of 4 pictures equal" in done.out
    refused = cli("evaluate", denoiser_bundle, "--reference", denoiser_bundle, *asked)
    assert refused.code == 1 and "latents of 8 channels" in refused.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--metrics", "fidd"), "there is no metric 'fidd'"),
        (("--metrics", "psnr"), "PSNR, dB needs a reference"),
        (("--metrics", "fid", "--count", "64"), "64 pictures are too few for a distance of 64 features"),
        (("--metrics", "lpips", "--reference", "pytorch"), "LPIPS needs a network"),
        (("--metrics", "clip"), "the CLIP score is of pictures and their prompts"),
        (("--metrics", "fd-dinov2"), "FD-DINOv2 needs a network"),
        (("--network", "fid=nothing.pth"), "are not there: nothing.pth"),
        (("--network", "psnr=x"), "'psnr' takes no --network"),
        (("--max", "psnr=1"), "'psnr' is not measured"),
        (("--max", "fid=+1"), "relative to a reference"),
        (("--data", "nothing"), "no data at nothing"),
        (("--reference", "nothing.dsr"), "does not exist"),
        (("--prompts", "nothing.txt"), "no such file: nothing.txt"),
        (("--prompts", "/dev/zero"), "no regular file"),
        (("--checkpoint", "x.pth"), "--checkpoint is for --reference pytorch"),
        (("--shard", "3/2"), "is not I/N"),
        (("--random-weights", "1", "--reference", "pytorch"), "built from another weights"),
        (("--html", "no/such/page.html"), "no folder"),
        (("--data", "x", "--metrics", "is"), "--data is for distances"),
        (("-o", "x", "--prompts", "x"), "--output x is --prompts"),
        (("--html", "x/y", "--network", "fid=x"), "--html x/y lies in --network fid"),
        (("--junit", "x/y", "--data", "x"), "--junit x/y lies in --data"),
        (("-o", "x/y", "--reference", "x"), "--output x/y lies in --reference"),
        (("--metrics", "fid,is", "--network", "fid=.", "--network", "is=.."), "names another"),
        (("--network", "fid=."), "--metrics fid,psnr"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    digits_bundle: Path,
    cli: Cli,
    options: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = cli("evaluate", digits_bundle, *options)
    assert done.code == 1 and message in done.err, done.err
    assert not list(tmp_path.iterdir())


def test_torch_that_is_missing_is_named(digits_bundle: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    done = cli("evaluate", digits_bundle)
    assert done.code == 1 and "needs the package torch" in done.err and "pip install 'torch>=" in done.err


def test_a_reference_of_other_weights_or_no_name_is_refused(pipeline_bundle: Path, tmp_path: Path) -> None:
    opened = Bundle.open(pipeline_bundle)
    with pytest.raises(ExportError, match=r"another (weights|configuration)"):
        torch_reference(opened, ModelRequest(random_weights=3, options=DENOISER))
    same = torch_reference(opened, ModelRequest(random_weights=0, options=DENOISER))
    assert same.config == opened.manifest.model["config"]
    with pytest.raises(ExportError, match="was not built from a registered model"):
        torch_reference(Bundle.open(handmade_pipeline(tmp_path)), ModelRequest())


def test_a_pipeline_is_judged_by_its_prompts(cli: Cli, tmp_path: Path) -> None:
    bundle = handmade_pipeline(tmp_path)
    asked = ("evaluate", bundle, "--reference", bundle, "--count", "9", "--steps", "2", "--metrics", "psnr")
    refused = cli(*asked)
    assert refused.code == 1 and "give --prompts FILE" in refused.err
    (tmp_path / "prompts.txt").write_text("a cat\n\n  a dog \n")
    done = cli(*asked, "--prompts", tmp_path / "prompts.txt", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["identical_pictures"] == 9 and found["prompts"] == 2
