"""`dsr-export build --model-dir PIPELINE --precision int8`: ranges of the pipeline's own walks, from its prompts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Cli
from tests.pipelines.tiny_pipelines import OPTIONS, tiny_pipeline

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # diffusers, of NumPy 2
]
PROMPTS = ("a small red cat on the table", "a dog", "the big cat and a dog")
ASKED = ("build", "--model-dir", "pipe", "--option", "text_tokens=12", "--precision", "int8", "--batch", "1,2,2")
ASKED = (*ASKED, "--target", "onnxruntime", "--calibration-steps", "3")


@pytest.fixture
def pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with PixArt-Sigma and a file of prompts."""
    tiny_pipeline("pixart-sigma", tmp_path)
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_shares_are_of_the_same_walks(cli: Cli, pipe: Path) -> None:
    share = (*ASKED, "--calibration-only", "--shard", "1/2", "--out", "parts")
    done = cli(*share, "--calibration", "prompts.txt")
    assert done.code == 0, done.err
    record = json.loads((pipe / "parts" / "share-1-of-2" / "part.json").read_text())
    walk = record["made_for"]["walk"]
    assert walk["prompts"] == list(PROMPTS) and (walk["images"], walk["steps"]) == (4, 3)
    other = cli(*share)
    assert other.code == 1 and "share of another calibration: other data in --calibration" in other.err
    scheduler = pipe / "pipe" / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps({**json.loads(scheduler.read_text()), "beta_end": 0.03}))
    again = cli(*share, "--calibration", "prompts.txt")
    assert again.code == 1 and "walks of another pipeline around the model" in again.err


def test_what_it_was_measured_on_is_recorded_and_shares_build_the_same(cli: Cli, pipe: Path) -> None:
    done = cli(*ASKED, "--components", "all", "--calibration", "prompts.txt", "--out", "one.dsr", "--json")
    assert done.code == 0, done.err
    data = json.loads((pipe / "one.dsr" / "calibration.json").read_text())["data"]
    walked = {"images": 4, "steps": 3, "pipeline": "PixArtSigmaPipeline", "prompts": list(PROMPTS)}
    assert data == {"kind": "prompts.txt", **walked}
    report = json.loads(done.out)
    walks = [each for each in report["parity"] if each["check"] == "walk"]
    assert walks and all(each["passed"] and each["snr_db"] > 20 for each in walks)
    assert report["passed"] and report["int8"]["reached_snr_db"] > 20
    assert report["int8"]["data"] == [{**walked, "kind": "prompts", "prompts": 3}]
    for index in (2, 1):
        share = ("--calibration-only", "--shard", f"{index}/2", "--out", "parts")
        assert cli(*ASKED, "--calibration", "prompts.txt", *share).code == 0
    parts = ("--calibration", "prompts.txt", "--calibration-parts", "parts", "--out", "joined.dsr")
    joined = cli(*ASKED, *parts)
    assert joined.code == 0, joined.err
    for name in ("calibration.json", "model.onnx", "model.onnx.data"):
        assert (pipe / "joined.dsr" / name).read_bytes() == (pipe / "one.dsr" / name).read_bytes()


def test_roles_are_told_apart_where_both_streams_are_one_sequence(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FLUX.1's last block reads prompt and picture as one: 12 tokens, some of them padding, and a grid of 4 x 3."""
    tiny_pipeline("flux", tmp_path)
    monkeypatch.chdir(tmp_path)
    sizes = [f"--option={name}={value}" for name, value in OPTIONS["flux"].items()]
    told = ("build", "--model-dir", "pipe", *sizes, "--precision", "int8", "--target", "onnxruntime")
    done = cli(*told, "--batch", "1,2,2", "--calibration-steps", "2", "--out", "b.dsr", "--json")
    assert done.code == 0, done.err
    gemms = {gemm["name"]: gemm for gemm in json.loads(done.out)["int8"]["gemms"]}
    joined = [gemm for name, gemm in gemms.items() if "single_transformer_blocks" in name and gemm["tokens"] > 1]
    assert joined and all(gemm["tokens"] == 24 for gemm in joined)
    for gemm in joined:
        roles = {role: figures["count"] for role, figures in gemm["roles"].items()}
        assert roles["corner"] == 4 * 4 * 2 and sum(roles.values()) == 24 * 4 * 2  # four images, two steps
        assert 0 < roles["padding"] < 12 * 4 * 2
