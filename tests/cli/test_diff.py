"""`dsr-export diff`: what differs is shown, what is worse is exit code 3."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from dsr_export.bundle.reader import RUNTIME_MODEL, Bundle
from graphs.artifacts import TensorSpec
from tests.cli.test_pipeline import _around, _drifted
from tests.conftest import Cli
from tests.pipeline_parts import rewritten

WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; from dsr_export.cli import main; main(sys.argv[1:])"


def _scaled(bundle: Path, out: Path, factor: float) -> Path:
    """The bundle with one weight multiplied, and a report that knows nothing of it."""
    model = onnx.load(bundle / "model.onnx")
    weight = next(t for t in model.graph.initializer if t.name.endswith("mlp.w3.bias"))
    values = numpy_helper.to_array(weight) * np.float32(factor)
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    return rewritten(bundle, out, {"model.onnx": model.SerializeToString()})


def test_a_bundle_is_identical_to_itself_without_torch(denoiser_bundle: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH, "diff", str(denoiser_bundle), str(denoiser_bundle), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["identical"], found["regressions"]) == (True, [])


def test_a_difference_of_the_graph_for_onnx_runtime_is_told(denoiser_bundle: Path, cli: Cli, tmp_path: Path) -> None:
    """`sample` runs that one: two bundles of one model.onnx may draw other pictures."""
    model = onnx.load(denoiser_bundle / RUNTIME_MODEL)
    weight = next(t for t in model.graph.initializer if t.name.endswith("mlp.w3.bias"))
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) + 1, weight.name))
    other = rewritten(denoiser_bundle, tmp_path / "other.dsr", {RUNTIME_MODEL: model.SerializeToString()})
    found = json.loads(cli("diff", denoiser_bundle, other, "--json").out)
    assert [each["name"] for each in found["runtime_graph"]["weights"]["changed"]] == [weight.name]
    assert found["weights"]["changed"] == []
    resealed = rewritten(denoiser_bundle, tmp_path / "resealed.dsr", name="other")
    assert "graph for ONNX Runtime: identical, byte for byte" in cli("diff", denoiser_bundle, resealed).out


def test_a_weight_that_drifted_is_named_and_fails(denoiser_bundle: Path, cli: Cli, tmp_path: Path) -> None:
    drifted = _scaled(denoiser_bundle, tmp_path / "drifted.dsr", 1.5)
    done = cli("diff", denoiser_bundle, drifted, "--json")
    found = json.loads(done.out)
    assert done.code == 3
    (change,) = found["weights"]["changed"]
    assert change["name"].endswith("mlp.w3.bias")
    assert abs(change["snr_db"] - 20 * np.log10(2)) < 0.01
    assert found["graph"]["operators"] == {} and found["graph"]["nodes_changed"] == []
    assert all(row["delta"]["snr_db"] == 0 for row in found["parity"])  # the reports agree: only running it shows
    assert [row["batch"] for row in found["outputs"]] == [1, 2, 4]
    assert all(row["a"]["passed"] and not row["b"]["passed"] for row in found["outputs"])
    assert all(row["b_against_a"]["snr_db"] < 60 for row in found["outputs"])

    text = cli("diff", denoiser_bundle, drifted)
    assert text.code == 3
    assert "REGRESSION  golden batch 1 out, run here passed in A and fails in B" in text.out
    assert text.out.endswith("B is worse than A\n")
    assert cli("diff", drifted, denoiser_bundle).code == 0  # the other way it is an improvement


def test_the_same_graph_is_run_once_and_differences_of_manifests_show(
    denoiser_bundle: Path, cli: Cli, tmp_path: Path
) -> None:
    other = rewritten(denoiser_bundle, tmp_path / "other.dsr", provenance={"random_seed": 7})
    done = cli("diff", denoiser_bundle, other, "--json")
    found = json.loads(done.out)
    assert done.code == 0
    assert found["manifest"]["provenance.random_seed"] == {"a": 0, "b": 7}
    assert found["weights"]["changed"] == [] and found["weights"]["unchanged"] > 10
    assert all(row["b_against_a"]["snr_db"] == 300 for row in found["outputs"])
    assert {name for name, sides in found["stages"].items() if sides["a"] and sides["b"]} >= {"trace", "parity"}
    assert "  provenance.random_seed: 0 -> 7" in cli("diff", denoiser_bundle, other).out


def test_tolerance_moves_the_margin(denoiser_bundle: Path, cli: Cli, tmp_path: Path) -> None:
    report = Bundle.open(denoiser_bundle).report()
    for rowed in report["parity"]:
        rowed["snr_db"] = 55.0
    worse = rewritten(denoiser_bundle, tmp_path / "worse.dsr", {"report.json": json.dumps(report).encode()})
    done = cli("diff", denoiser_bundle, worse)
    assert done.code == 3 and "a drop of more than 3 dB to below 60 dB" in done.out
    assert cli("diff", denoiser_bundle, worse, "--tolerance-db", "400").code == 0
    assert cli("diff", denoiser_bundle, worse, "--tolerance-db", "-1").code == 2


def test_another_interface_fails_and_what_still_runs_is_run(denoiser_bundle: Path, cli: Cli, tmp_path: Path) -> None:
    specs = Bundle.open(denoiser_bundle).manifest.inputs
    renamed = tuple(
        TensorSpec(name=s.name, dtype=s.dtype, shape=(*s.shape[:-1], 5)) if i == 0 else s for i, s in enumerate(specs)
    )
    other = rewritten(denoiser_bundle, tmp_path / "other.dsr", inputs=renamed)
    done = cli("diff", denoiser_bundle, other, "--json")
    found = json.loads(done.out)
    assert done.code == 3
    assert found["regressions"][0].startswith("inputs differ: x float32")
    assert all(row["b"]["problem"] and row["a"]["passed"] for row in found["outputs"])


def test_what_engines_are_built_from_is_compared_too(denoiser_bundle: Path, cli: Cli, tmp_path: Path) -> None:
    plain = (denoiser_bundle / "model.onnx").read_bytes()
    scaled = (_scaled(denoiser_bundle, tmp_path / "scaled.dsr", 1.5) / "model.onnx").read_bytes()
    a = rewritten(denoiser_bundle, tmp_path / "a.dsr", {"engines/model.onnx": plain})
    b = rewritten(denoiser_bundle, tmp_path / "b.dsr", {"engines/model.onnx": scaled})
    found = json.loads(cli("diff", a, b, "--json").out)
    assert found["weights"]["changed"] == [] and found["engine_graph"]["graph"]["nodes_changed"] == []
    assert [each["name"][-11:] for each in found["engine_graph"]["weights"]["changed"]] == ["mlp.w3.bias"]
    assert len({files["model.onnx"] for files in found["engine_graph"]["files"].values()}) == 2
    assert "graph of engines:\n" in cli("diff", a, b).out
    assert "graph of engines: identical" in cli("diff", a, denoiser_bundle).out  # whose engines are of model.onnx
    page = tmp_path / "diff.html"
    assert cli("diff", a, b, "--html", page).code == 0 and "graph of engines:" in page.read_text()
    inside = cli("diff", a, b, "--html", b / "diff.html")
    assert inside.code == 1 and "lies in the bundle" in inside.err


def test_components_are_compared_too(
    pipeline_bundle: Path, decoder_bundle: Path, denoiser_bundle: Path, cli: Cli, tmp_path: Path
) -> None:
    drifted = _drifted(decoder_bundle, tmp_path / "drifted.dsr")
    other = _around(denoiser_bundle, drifted, tmp_path / "pipe.dsr")
    done = cli("diff", pipeline_bundle, other)
    assert done.code == 3
    assert "component decoder:" in done.out and "REGRESSION  decoder: golden batch 2 image" in done.out
    lost = cli("diff", pipeline_bundle, denoiser_bundle)
    assert lost.code == 3 and "REGRESSION  B has no component 'decoder'" in lost.out


def test_what_is_no_bundle_is_refused(denoiser_bundle: Path, cli: Cli, tmp_path: Path) -> None:
    done = cli("diff", denoiser_bundle, tmp_path / "nowhere.dsr")
    assert (done.code, "nowhere.dsr does not exist" in done.err) == (1, True)
