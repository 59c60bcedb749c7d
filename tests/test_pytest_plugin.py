"""`pytest --dsr-bundle`: one test per check, readable failures, and nothing at all where it is not asked for."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from dsr_export.bundle.reader import Bundle
from dsr_export.verification import for_test_runners as bundle_checks
from tests.pipeline_parts import rewritten

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

pytest_plugins = ["pytester"]

PLUGIN = ("-p", "dsr_export.pytest_plugin", "-p", "no:cacheprovider")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the plugin under test: where the package is installed, its entry point would load it a second time."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def _drifted(bundle: Path, out: Path) -> Path:
    model = onnx.load(bundle / "model.onnx")
    weight = next(t for t in model.graph.initializer if t.name.endswith("mlp.w3.bias"))
    values = numpy_helper.to_array(weight)
    weight.CopyFrom(numpy_helper.from_array(values + np.abs(values).max(), weight.name))
    return rewritten(bundle, out, {"model.onnx": model.SerializeToString()})


def test_each_check_is_a_test(pytester: pytest.Pytester, pipeline_bundle: Path) -> None:
    result = pytester.runpytest_inprocess(*PLUGIN, "--dsr-bundle", str(pipeline_bundle), "-v", "--strict-markers")
    # hashes, verdict; precision, four claims, four batches, rows, repeats, invariance, trajectory; of the decoder:
    # precision, four claims, one batch, rows, repeats
    result.assert_outcomes(passed=23)
    result.stdout.fnmatch_lines_random(
        [
            "*pipeline.dsr::hashes PASSED*",
            "*pipeline.dsr::precision PASSED*",
            "*pipeline.dsr::decoder/rows_of_build PASSED*",
            "*pipeline.dsr::parity[[]onnxruntime-batch-4-out] PASSED*",
            "*pipeline.dsr::parity[[]onnxruntime-trajectory-sample] PASSED*",
            "*pipeline.dsr::decoder/parity[[]onnxruntime-rows-image] PASSED*",
            "*pipeline.dsr::verdict PASSED*",
        ]
    )


def test_bundles_stand_beside_other_tests_and_can_be_chosen(
    pytester: pytest.Pytester, denoiser_bundle: Path, decoder_bundle: Path
) -> None:
    pytester.makepyfile("def test_own(): pass")
    both = ("--dsr-bundle", str(denoiser_bundle), "--dsr-bundle", str(decoder_bundle))
    pytester.runpytest_inprocess(*PLUGIN, *both).assert_outcomes(passed=1 + 15 + 10)
    pytester.runpytest_inprocess(*PLUGIN, *both, "-m", "dsr_bundle", "-k", "hashes").assert_outcomes(
        passed=2, deselected=24
    )
    pytester.runpytest_inprocess(*PLUGIN, *both, "-m", "not dsr_bundle").assert_outcomes(passed=1, deselected=25)


def test_a_failure_says_what_was_measured_and_what_is_required(
    pytester: pytest.Pytester, denoiser_bundle: Path, tmp_path: Path
) -> None:
    drifted = _drifted(denoiser_bundle, tmp_path / "drifted.dsr")
    result = pytester.runpytest_inprocess(*PLUGIN, "--dsr-bundle", str(drifted))
    result.assert_outcomes(passed=10, failed=5)  # equal rows still give equal rows
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "*drifted.dsr: parity[[]onnxruntime-batch-1-out] failed",
            "  SNR * dB, at least 60.0 dB   <- out of tolerance",
            "  against torch-fp32; the tolerance allows for reassociation only",
        ]
    )
    assert "Traceback" not in result.stdout.str() and "runtest" not in result.stdout.str()


def test_a_claim_that_does_not_hold_fails_its_own_test(
    pytester: pytest.Pytester, denoiser_bundle: Path, tmp_path: Path
) -> None:
    tolerances = {**Bundle.open(denoiser_bundle).manifest.tolerances, "snr_db": -200.0}
    loose = rewritten(denoiser_bundle, tmp_path / "loose.dsr", tolerances=tolerances)
    result = pytester.runpytest_inprocess(*PLUGIN, "--dsr-bundle", str(loose))
    result.assert_outcomes(passed=14, failed=1)
    result.stdout.fnmatch_lines(["*loose.dsr: tolerances_of_precision failed", "  snr_db -200, at least 60 *"])


def test_only_bundles_of_a_trusted_key_are_read(
    pytester: pytest.Pytester, decoder_bundle: Path, tmp_path: Path
) -> None:
    ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    from dsr_export.bundle.signing import sign_bundle

    paths = []
    for name in ("own", "other"):
        key = ed25519.Ed25519PrivateKey.generate()
        pem, raw = serialization.Encoding.PEM, serialization.NoEncryption()
        private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, raw)
        public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
        paths.append((tmp_path / f"{name}.pem", tmp_path / f"{name}.pub.pem"))
        for path, data in zip(paths[-1], (private, public), strict=True):
            path.write_bytes(data)
    signed = Path(shutil.copytree(decoder_bundle, tmp_path / "signed.dsr"))
    sign_bundle(signed, paths[0][0])
    given = (*PLUGIN, "--dsr-bundle", str(signed), "-k", "hashes", "--dsr-trust")
    pytester.runpytest_inprocess(*given, str(paths[0][1])).assert_outcomes(passed=1, deselected=9)
    result = pytester.runpytest_inprocess(*given, str(paths[1][1]))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*signed*", "hint: *"])
    pytester.runpytest_inprocess(*given, "nowhere.pem").assert_outcomes(failed=1)


def test_an_altered_bundle_fails_its_hashes_and_runs_nothing(
    pytester: pytest.Pytester, denoiser_bundle: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(denoiser_bundle, tmp_path / "copy.dsr"))
    (copy / "golden.npz").write_bytes(b"altered")
    result = pytester.runpytest_inprocess(*PLUGIN, "--dsr-bundle", str(copy), "--dsr-bundle", "nowhere.dsr")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*golden.npz has 7 bytes*", "hint: *", "*nowhere.dsr does not exist"])


def test_a_runtime_that_is_not_there_fails_and_a_misspelt_one_is_a_usage_error(
    pytester: pytest.Pytester, denoiser_bundle: Path
) -> None:
    bundle = ("--dsr-bundle", str(denoiser_bundle))
    result = pytester.runpytest_inprocess(*PLUGIN, *bundle, "--dsr-runtime", "tensorrt")
    result.assert_outcomes(passed=1, failed=14)
    result.stdout.fnmatch_lines(["*holds no tensorrt engine", "hint: dsr-export compile *"])
    wrong = pytester.runpytest_inprocess(*PLUGIN, *bundle, "--dsr-runtime", "cuda")
    assert wrong.ret == pytest.ExitCode.USAGE_ERROR


def test_a_failure_without_a_test_of_its_own_fails_the_verdict(
    pytester: pytest.Pytester, denoiser_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drifted = _drifted(denoiser_bundle, tmp_path / "drifted.dsr")
    planned = bundle_checks.planned_checks
    monkeypatch.setattr(
        bundle_checks, "planned_checks", lambda *given: [each for each in planned(*given) if "batch-2" not in each.name]
    )
    result = pytester.runpytest_inprocess(*PLUGIN, "--dsr-bundle", str(drifted), "-k", "verdict")
    result.assert_outcomes(failed=1, deselected=13)
    result.stdout.fnmatch_lines(["*without a test of its own: parity[[]onnxruntime-batch-2-out]"])


def test_runs_without_a_bundle_are_left_alone(pytester: pytest.Pytester) -> None:
    heavy = {"torch", "onnxruntime", "onnx", "numpy", "rich", "click", "graphs"}
    pytester.makepyfile(f"import sys\ndef test_own(): assert not {heavy!r} & set(sys.modules)")
    result = pytester.runpytest_subprocess(*PLUGIN, "-W", "error", "--strict-config", "--strict-markers")
    result.assert_outcomes(passed=1)
    assert "warning" not in result.stdout.str().lower()


def test_the_entry_point_is_the_plugin() -> None:
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    (module,) = project["entry-points"]["pytest11"].values()
    assert hasattr(importlib.import_module(module), "pytest_addoption")


def test_the_plugin_is_not_rewritten() -> None:
    """pytest would warn where it finds the module imported before it could rewrite its assertions."""
    program = (
        "import sys, dsr_export.pytest_plugin as p; print('PYTEST_DONT_REWRITE' in p.__doc__, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
