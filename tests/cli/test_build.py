"""`dsr-export build`: what comes out, what is cached, and every way to be told no."""

from __future__ import annotations

import json
import os
import pickle  # noqa: TID251 (to make a checkpoint that must be refused)
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dsr_export.building import report as build_report
from dsr_export.bundle.reader import Bundle
from dsr_export.reports.record import Check
from dsr_export.storage.locks import exclusive
from tests.conftest import Cli
from tests.folders import names

KEYS = {"bundle", "passed", "precision", "target", "stages", "parity", "rewrites", "peak_rss_bytes"}
ROW = {"output", "runtime", "reference", "max_abs", "mean_abs", "cosine", "psnr_db", "snr_db", "tolerance", "passed"}
STAGES = ["trace", "reference", "lower", "optimize", "audit", "norms", "type", "engine", "taps", "parity"]
COMMAND = [sys.executable, "-m", "dsr_export"]


def test_json_holds_the_promised_keys_and_nothing_else_is_on_stdout(digits_bundle: Path, cli: Cli) -> None:
    done = cli("build", "--precision", "fp16", "--out", digits_bundle, "--json")
    report = json.loads(done.out)
    assert done.code == 0
    assert set(report) >= KEYS
    assert report["passed"] is True
    assert all(set(row) >= ROW for row in report["parity"])
    sizes = {f"batch-{size}" for size in (1, 2, 4, 6, 8)}
    others = {"fused", "rows", "determinism", "batch-invariance", "trajectory"}
    assert {row["check"] for row in report["parity"]} == sizes | others
    assert report["rewrites"]["lower_replace_outliers"] == 2
    assert "up to date" in done.err


def test_the_same_build_elsewhere_is_served_from_the_cache(digits_bundle: Path, cli: Cli, tmp_path: Path) -> None:
    done = cli("build", "--precision", "fp16", "--out", tmp_path / "again.dsr", "--json")
    stages = json.loads(done.out)["stages"]
    assert done.code == 0
    assert all(stage["cached"] for stage in stages)
    assert [stage["name"] for stage in stages if stage["name"] != "engine"] == [s for s in STAGES if s != "engine"]
    first, again = Bundle.open(digits_bundle), Bundle.open(tmp_path / "again.dsr")
    assert first.manifest.files["model.onnx"] == again.manifest.files["model.onnx"]


def test_an_fp16_bundle_is_really_fp16(digits_bundle: Path) -> None:
    bundle = Bundle.open(digits_bundle)
    report = bundle.report()
    (check,) = report["checks"]
    assert check["value"] == pytest.approx(report["typing"]["half_weight_fraction"])
    assert check["value"] > 0.85
    assert report["range_audit"]["runs"] == 49 + 3  # the whole trajectory and each golden batch
    assert report["typing"]["fp32_reasons"]["outlier detection"] > 0


def test_the_default_target_is_an_engine_where_its_package_is(digits_bundle: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the rtx extra is not installed")
    bundle = Bundle.open(digits_bundle)
    plan = bundle.engine("rtx")
    assert plan is not None
    assert plan.name == "rtx.plan"
    facts = bundle.manifest.targets[0].facts
    assert facts["plan_bytes"] == plan.stat().st_size
    assert facts["profile"]["x"] == {"min": [1, 1, 16, 16], "opt": [2, 1, 16, 16], "max": [8, 1, 16, 16]}
    assert facts["layer_output_types"]["float16"] > 100


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_other_precisions_pass_without_an_engine(precision: str, cli: Cli, tmp_path: Path) -> None:
    done = cli("build", "--precision", precision, "--target", "onnxruntime", "--out", tmp_path / "b.dsr", "--json")
    report = json.loads(done.out)
    assert (done.code, report["passed"], report["target"]) == (0, True, "onnxruntime")
    assert not (tmp_path / "b.dsr" / "engines").exists()


def test_replacement_changes_what_digits_outliers_computes() -> None:
    from dsr_export.families import load_subject

    with_sites, without = load_subject("digits-outliers"), load_subject("digits-outliers", replace=())
    inputs = [torch.from_numpy(value) for value in with_sites.example(2, seed=0).values()]
    with torch.inference_mode():
        difference = (with_sites.module(*inputs) - without.module(*inputs)).abs().max()
    assert difference > 0.01


# -- refusals ------------------------------------------------------------------------------------------------------


def _checkpoint(folder: Path, kind: str) -> Path:
    from dsr_export.families import load_subject

    state = dict(load_subject("digits").module.state_dict())
    path = folder / f"{kind}.safetensors"
    if kind == "nan":
        state["blocks.3.mlp.w3.weight"] = state["blocks.3.mlp.w3.weight"] * torch.nan
    elif kind == "renamed":
        state["blocks.3.mlp.w4.weight"] = state.pop("blocks.3.mlp.w3.weight")
    elif kind == "shape":
        state["blocks.3.mlp.w3.weight"] = torch.zeros(3, 3)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:5000])
    return path


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("truncated", "no readable safetensors"),
        ("nan", "blocks.3.mlp.w3.weight"),
        ("renamed", "did you mean 'blocks.3.mlp.w"),
        ("shape", "blocks.3.mlp.w3.weight: expected [128, 256], found [3, 3]"),
    ],
)
def test_bad_checkpoints_are_named_and_leave_nothing(kind: str, said: str, cli: Cli, tmp_path: Path) -> None:
    checkpoint = _checkpoint(tmp_path, kind)
    done = cli("build", "--checkpoint", checkpoint, "--out", tmp_path / "b.dsr")
    assert done.code == 1
    assert said in done.err
    assert "hint:" in done.err
    assert names(tmp_path) == [checkpoint.name]


class _Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch executed",)


def test_pickled_code_is_refused_and_never_run(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(_Payload()))
    done = cli("build", "--checkpoint", "evil.pt")
    assert done.code == 1
    assert "could execute code" in done.err
    assert names(tmp_path) == ["evil.pt"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["digts"], 1, "did you mean 'digits'?"),
        (["--target", "rtx:sm98"], 1, "did you mean 'rtx:sm8"),
        (["--precision", "fp17"], 2, "did you mean 'fp16'?"),
        (["--batch", "4,2,1"], 1, "batch range 4,2,1 is not ordered"),
        (["--batch", "two"], 1, "is not MIN,OPT,MAX"),
        (["--checkpoint", "missing.safetensors"], 1, "missing.safetensors"),
        (["rae-dit-s"], 1, "--random-weights SEED"),
        (["--registers", "-1"], 2, "-1"),
        (["--no-such-option"], 2, "--no-such-option"),
    ],
)
def test_bad_arguments_get_a_hint_and_leave_nothing(
    arguments: list[str], code: int, said: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = cli("build", *arguments)
    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert names(tmp_path) == []


def test_a_missing_package_names_its_extra(cli: Cli, tmp_path: Path) -> None:
    done = cli("build", "--target", "trt10", "--out", tmp_path / "b.dsr")
    assert done.code == 1
    assert "dsr-export[tensorrt]" in done.err


def test_someone_elses_folder_is_kept_unless_forced(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "b.dsr"
    out.mkdir()
    (out / "precious.txt").write_text("mine")
    options = ("--precision", "fp16", "--target", "onnxruntime", "--out", out)
    refused = cli("build", *options)
    assert refused.code == 1
    assert "--force" in refused.err
    assert names(out) == ["precious.txt"]
    assert cli("build", *options, "--force").code == 0
    assert "precious.txt" not in names(out)


def test_two_builds_into_one_folder_do_not_mix(cli: Cli, tmp_path: Path) -> None:
    with exclusive(tmp_path / "b.dsr"):
        done = cli("build", "--out", tmp_path / "b.dsr")
    assert done.code == 1
    assert "another build is writing to" in done.err
    assert names(tmp_path) == []


def _limit_file_size() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))


def test_a_full_disk_is_said_and_leaves_nothing(digits_bundle: Path, tmp_path: Path) -> None:
    """A file-size limit fails writes as a full disk does; everything but the bundle comes from the cache."""
    command = [*COMMAND, "build", "--precision", "fp16", "--out", str(tmp_path / "b.dsr")]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=_limit_file_size, check=False)
    assert done.returncode == 1
    assert "disk full" in done.stderr
    assert "hint:" in done.stderr
    assert "Traceback" not in done.stderr
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_leaves_nothing_and_can_be_repeated(number: int, tmp_path: Path) -> None:
    environment = {**os.environ, "DSR_EXPORT_CACHE": str(tmp_path / "cache")}
    command = [*COMMAND, "build", "--target", "onnxruntime", "--out", str(tmp_path / "out" / "b.dsr")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        while not list((tmp_path / "cache").glob("trace/*")) and not list((tmp_path / "cache").glob("**/*.tmp*")):
            assert process.poll() is None, "the build ended before it could be interrupted"
            time.sleep(0.05)
        process.send_signal(number)
        _, said = process.communicate(timeout=300)
    finally:
        process.kill()  # one that is left over would take the time of other tests
    assert process.returncode == 130
    assert not list((tmp_path / "cache").glob("**/*.tmp*"))
    assert "interrupted" in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists() or names(tmp_path / "out") == []


def test_arrays_of_the_golden_file_are_finite(digits_bundle: Path) -> None:
    assert all(np.isfinite(array).all() for array in Bundle.open(digits_bundle).golden().values())


def test_strict_makes_failures_of_advice(
    digits_bundle: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bundle is written and marked, as after any failed check."""
    said = "engine rtx: 1 of 8 attentions are not one kernel: blocks.3.attn/Softmax"
    failed = Check(name="attentions_fused", value=0.875, limit=1.0, passed=False, problem=said)
    monkeypatch.setattr(build_report, "engine_checks", lambda engines, precision: [failed])
    done = cli("build", "--precision", "fp16", "--out", tmp_path / "loose.dsr")
    report = Bundle.open(tmp_path / "loose.dsr").report()
    assert (done.code, report["passed"], report["advice"]) == (0, True, [said])
    assert f"{said} (--strict makes a failure of it)" in done.err
    done = cli("build", "--precision", "fp16", "--strict", "--out", tmp_path / "strict.dsr")
    report = Bundle.open(tmp_path / "strict.dsr").report()
    assert (done.code, report["passed"], report["advice"]) == (3, False, [])
    assert said in done.out and said in (tmp_path / "strict.dsr" / "report.html").read_text()
