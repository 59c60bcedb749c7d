"""A bundle that was sealed again with an honest mistake in it: `verify` says which of its claims does not hold."""

from __future__ import annotations

import io
import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from dsr_export.bundle.manifest import BundleTarget, Manifest
from dsr_export.bundle.reader import Bundle
from dsr_export.bundle.writer import write_bundle
from dsr_export.parity.tolerances import TOLERANCES
from dsr_export.verification.claims import tolerance_problems
from dsr_export.verification.model_checks import CLAIMS
from tests.conftest import Cli
from tests.pipeline_parts import rewritten

Files = dict[str, bytes]
Case = Callable[[Bundle], tuple[Files, dict[str, Any]]]
PLAN = "engines/rtx.plan"
NAMES = tuple(check.title for check in CLAIMS)


def _failed(done: Any) -> dict[str, str]:
    """Name -> problem of the checks that failed; all of them are listed."""
    report = json.loads(done.out)
    assert set(NAMES) <= {check["name"] for check in report["checks"]}
    return {check["name"]: check["problem"] for check in report["checks"] if not check["passed"]}


def _tolerances(**looser: Any) -> Case:
    return lambda bundle: ({}, {"tolerances": {**bundle.manifest.tolerances, **looser}})


def _golden(dropped: str) -> Case:
    def case(bundle: Bundle) -> tuple[Files, dict[str, Any]]:
        kept = {name: array for name, array in bundle.golden().items() if not name.startswith(dropped)}
        stream = io.BytesIO()
        np.savez_compressed(stream, **kept)
        return {"golden.npz": stream.getvalue()}, {}

    return case


def _no_sampler(bundle: Bundle) -> tuple[Files, dict[str, Any]]:
    return {}, {"sampler": None}


def _neither(bundle: Bundle) -> tuple[Files, dict[str, Any]]:
    return _golden("trajectory/")(bundle)[0], {"sampler": None}


def _report(edit: Callable[[dict[str, Any]], object]) -> Case:
    def case(bundle: Bundle) -> tuple[Files, dict[str, Any]]:
        report = bundle.report()
        edit(report)
        return {"report.json": json.dumps(report).encode()}, {}

    return case


def _without(check: str) -> Case:
    return _report(lambda report: report.update(parity=[r for r in report["parity"] if r["check"] != check]))


def _failing_row(report: dict[str, Any]) -> None:
    report["parity"][0]["passed"] = False


def _half_weight(bundle: Bundle) -> tuple[Files, dict[str, Any]]:
    """Stored in half and cast back: within FP32's tolerance or not, it is no FP32."""
    model = onnx.load(bundle.file("model.onnx"))
    used = {node.input[1] for node in model.graph.node if node.op_type == "MatMul"}
    weight = next(t for t in model.graph.initializer if t.name in used and t.data_type == onnx.TensorProto.FLOAT)
    name = weight.name
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), f"{name}.half"))
    model.graph.node.insert(0, helper.make_node("Cast", [f"{name}.half"], [name], name="back", to=1))
    return {"model.onnx": model.SerializeToString()}, {}


def _garbage_plan(bundle: Bundle) -> tuple[Files, dict[str, Any]]:
    engine = BundleTarget(name="rtx", backend="tensorrt_rtx", version="1.7.1.116", engine=PLAN)
    return {PLAN: b"garbage" * 99}, {"targets": (*bundle.manifest.targets, engine)}


@pytest.mark.parametrize(
    ("case", "name", "problem"),
    [
        (_tolerances(psnr_db=-200.0, snr_db=-200.0), "tolerances_of_precision", "psnr_db -200, at least 80"),
        (_tolerances(cosine=0.9), "tolerances_of_precision", "cosine 0.9, at least 0.99999"),
        (_tolerances(max_abs=None), "tolerances_of_precision", "max_abs None, at most 0.0001"),
        (_golden("trajectory/"), "rows_of_build", "declares a sampler, and golden.npz holds no trajectory"),
        (_golden("batch2/"), "rows_of_build", "golden.npz holds no batch of 2"),
        (_golden("batch4/"), "rows_of_build", "the build compared batch-4 out"),
        (_no_sampler, "rows_of_build", "declares no sampler, and golden.npz holds a trajectory"),
        (_neither, "rows_of_build", "the build compared trajectory sample"),
        (_without("batch-4"), "rows_of_build", "report.json has no row batch-4 out"),
        (_without("determinism"), "rows_of_build", "report.json has no row determinism out"),
        (_report(lambda report: report.update(parity=[])), "rows_of_build", "report.json has no row trajectory"),
        (_report(_failing_row), "rows_of_build", "one of its rows failed"),
        (_half_weight, "types_of_precision", "FLOAT16 tensors"),
        (_garbage_plan, "engine_headers", f"{PLAN} begins with b'garb', no plan of tensorrt_rtx"),
    ],
)
def test_a_claim_that_does_not_hold_fails_by_name(
    case: Case, name: str, problem: str, denoiser_bundle: Path, cli: Cli, tmp_path: Path
) -> None:
    files, manifest = case(Bundle.open(denoiser_bundle))
    changed = rewritten(denoiser_bundle, tmp_path / "changed.dsr", files, **manifest)
    done = cli("verify", changed, "--json")
    failed = _failed(done)
    assert done.code == 3
    assert problem in failed.get(name, ""), failed
    assert set(failed) == {name}


def test_an_honest_bundle_keeps_all_its_claims_and_says_its_digest(denoiser_bundle: Path, cli: Cli) -> None:
    done = cli("verify", denoiser_bundle)
    assert done.code == 0
    assert f"manifest {Bundle.open(denoiser_bundle).manifest.digest}" in done.out
    assert all(f"ok    {name}: 1.000" in done.out for name in NAMES)


def test_a_bundle_of_before_the_sbom_may_have_fewer_rows_but_not_fewer_batches(
    denoiser_bundle: Path, cli: Cli, tmp_path: Path
) -> None:
    opened = Bundle.open(denoiser_bundle)
    files: dict[str, Any] = {name: opened.file(name) for name in opened.manifest.files if name != "sbom.cdx.json"}
    for missing, code in (("determinism", 0), ("batch-1", 3)):
        report = _without(missing)(opened)[0]
        old = write_bundle(tmp_path / f"{missing}.dsr", opened.manifest, {**files, **report})
        assert cli("verify", old).code == code, missing


def test_an_engine_that_was_not_run_is_told_from_one_that_passed(
    denoiser_bundle: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dsr_export.backends.engines_here.compute_capability", lambda: None)
    files, manifest = _garbage_plan(Bundle.open(denoiser_bundle))
    bundle, out = rewritten(denoiser_bundle, tmp_path / "e.dsr", files, **manifest), tmp_path / "junit.xml"
    done = cli("verify", bundle, "--runtime", "onnxruntime", "--junit", out, "--markdown", tmp_path / "t.md")
    said = f"{PLAN} was not run here: there is no GPU"
    assert said in done.out and said in done.err and said in (tmp_path / "t.md").read_text()
    (skipped,) = ElementTree.fromstring(out.read_bytes()).iterfind(".//testcase[skipped]")
    assert skipped.attrib["name"] == PLAN
    properties = {each.attrib["name"]: each.attrib["value"] for each in ElementTree.parse(out).iter("property")}
    assert properties["manifest_digest"] == Bundle.open(bundle).manifest.digest


def _manifest(base: Manifest, precision: str, tolerances: Mapping[str, Any]) -> Manifest:
    return replace(base, precision=precision, tolerances=tolerances)


@pytest.mark.parametrize(
    ("given", "report", "holds"),
    [
        ({}, {}, True),
        ({"snr_db": 30.0}, {}, True),
        ({"snr_db": 10.0}, {"int8": {"budget_snr_db": 10.0}}, True),
        ({"snr_db": 9.0}, {"int8": {"budget_snr_db": 10.0}}, False),
        ({"snr_db": 10.0}, {}, False),
        ({"snr_db": -9.0}, {"int8": {"budget_snr_db": -10.0}}, False),
        ({"snr_db": 10.0}, {"int8": {"budget_snr_db": "10"}}, False),
        ({"psnr_db": 10.0}, {"int8": {"budget_snr_db": 10.0}}, False),
    ],
)
def test_int8_may_have_the_budget_it_was_built_with(
    given: Mapping[str, Any], report: Mapping[str, Any], holds: bool, denoiser_bundle: Path
) -> None:
    tolerances = {**TOLERANCES["int8"].as_dict(), **given}
    manifest = _manifest(Bundle.open(denoiser_bundle).manifest, "int8", tolerances)
    assert (tolerance_problems(manifest, report) == []) is holds
