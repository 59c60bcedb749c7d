"""Engines of TensorRT-RTX and TensorRT, through the commands that users have and through the runner."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dsr_export.backends.base import Runner
from dsr_export.backends.named_arrays import load_arrays, save_arrays
from dsr_export.backends.onnxruntime import OnnxRuntimeRunner
from dsr_export.backends.tensorrt.runner import TensorRTRunner
from dsr_export.bundle.reader import MODEL, Bundle
from dsr_export.config import BatchRange
from dsr_export.parity.golden.reader import read_golden
from graphs.precisions import Precision
from tests.gpu import checks
from tests.gpu.conftest import Built
from tests.gpu.decisions import deciding_model, decisions, walked_inputs
from tests.gpu.engine_kinds import KINDS, EngineKind, engine_kind, need_rtx, opened_here
from tests.gpu.figures import Figures

pytestmark = pytest.mark.gpu
BUILDS = [("digits", "fp16"), ("digits", "int8"), ("digits-outliers", "fp16")]
AT_ONCE = 50
LIMIT = 240  # seconds for one command


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """`dsr-export` in a process of its own: a crash in a driver's library is a failed test, and not the end of all."""
    line = [sys.executable, "-m", "dsr_export", *(str(argument) for argument in arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=LIMIT, check=False, env=dict(os.environ))


class Engines:
    """Bundles with an engine of one kind, each compiled once."""

    def __init__(self, built: Built, kind: EngineKind, folder: Path, capability: str, figures: Figures) -> None:
        self.built, self.kind, self.folder, self.figures = built, kind, folder, figures
        self.capability = capability
        self.made: dict[str, subprocess.CompletedProcess[str]] = {}

    def compiled(self, name: str, precision: Precision) -> tuple[subprocess.CompletedProcess[str], Path]:
        """What the command said, and where the bundle is."""
        stem = f"{name}-{precision}"
        out = self.folder / f"{stem}.dsr"
        if stem not in self.made:
            bundle = self.built(name, precision)
            self.made[stem] = command("compile", bundle.path, "--target", self.kind.target.name, "--out", out, "--json")
            self.record(f"{stem}/compile", {"code": self.made[stem].returncode, "said": self._said(stem)})
        return self.made[stem], out

    def bundle(self, name: str, precision: Precision) -> Bundle:
        """Skips where TensorRT-RTX itself does not know this GPU."""
        found, out = self.compiled(name, precision)
        if found.returncode == 1 and not self.kind.supported:
            reason = self._said(f"{name}-{precision}")
            pytest.skip(f"TensorRT-RTX does not support compute capability {self.capability}: {reason}")
        assert found.returncode == 0, found.stderr[-3000:]
        return Bundle.open(out)

    def opened(self, name: str, precision: Precision) -> Runner:
        """In this process."""
        bundle = self.bundle(name, precision)
        runner = bundle.runner(opened_here(self.kind).runtime)  # type: ignore[arg-type]  # one of the names
        assert runner.name == self.kind.target.backend
        return runner

    def record(self, name: str, value: Any) -> None:
        self.figures.record(f"engine/{self.kind.target.name}/{name}", value)

    def _said(self, stem: str) -> str:
        return " ".join(self.made[stem].stderr.split())[-600:]


@pytest.fixture(scope="session", params=KINDS)
def engines(
    built: Built,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    capability: str,
    figures: Figures,
) -> Engines:
    return Engines(
        built, engine_kind(request.param, capability), tmp_path_factory.mktemp("engines"), capability, figures
    )


def test_a_gpu_that_is_not_supported_is_told_so_at_once(engines: Engines) -> None:
    """Whether it builds or not, the command ends by itself: with an engine, or with a reason and a way out."""
    found, out = engines.compiled("digits", "fp16")
    assert found.returncode in ((0,) if engines.kind.supported else (0, 1)), found.stderr[-3000:]
    if found.returncode == 1:
        assert engines.capability in found.stderr and "hint:" in found.stderr and not out.exists()


@pytest.mark.parametrize(("name", "precision"), BUILDS)
def test_compiling_checks_the_golden_vectors(engines: Engines, name: str, precision: Precision) -> None:
    engines.bundle(name, precision)
    report = json.loads(engines.compiled(name, precision)[0].stdout)
    assert report["passed"] and report["compiled"][engines.kind.target.name]["verified"]


@pytest.mark.parametrize(("name", "precision"), BUILDS)
def test_verify_judges_the_engine(engines: Engines, name: str, precision: Precision) -> None:
    found = command("verify", engines.bundle(name, precision).path, "--runtime", engines.kind.runtime, "--json")
    report = json.loads(found.stdout)
    kept = [{key: row[key] for key in ("check", "snr_db", "passed")} for row in report["parity"]]
    engines.record(f"{name}-{precision}/parity", kept)
    assert found.returncode == 0 and report["passed"]
    assert {row["runtime"] for row in report["parity"]} == {engines.kind.target.backend}


def test_verify_takes_the_engine_by_itself(engines: Engines) -> None:
    found = command("verify", engines.bundle("digits", "fp16").path, "--json")
    assert found.returncode == 0
    assert {"onnxruntime", engines.kind.target.backend} == {
        row["runtime"] for row in json.loads(found.stdout)["parity"]
    }


def test_run_gives_what_the_runner_gives(engines: Engines, tmp_path: Path) -> None:
    bundle = engines.bundle("digits", "fp16")
    inputs = dict(read_golden(bundle).cases[2].inputs)
    save_arrays(tmp_path / "in.npz", inputs)
    source, made = tmp_path / "in.npz", tmp_path / "out.npz"
    found = command("run", bundle.path, "--runtime", engines.kind.runtime, "--input", source, "--output", made)
    assert found.returncode == 0, found.stderr
    with engines.opened("digits", "fp16") as runner:
        assert checks.equal(load_arrays(made), runner.infer(inputs))


def test_samples_are_drawn(engines: Engines, tmp_path: Path) -> None:
    bundle, made = engines.bundle("digits", "fp16"), [tmp_path / name for name in ("engine.png", "cpu.png")]
    for runtime, picture in zip((engines.kind.runtime, "onnxruntime"), made, strict=True):
        asked = ("--count", "4", "--steps", "10", "--runtime", runtime)
        found = command("sample", bundle.path, *asked, "-o", picture)
        assert found.returncode == 0, found.stderr
    engine, cpu = (np.asarray(Image.open(picture), np.float64) for picture in made)
    assert engine.shape == cpu.shape and engine.std() > 0
    assert np.abs(engine - cpu).mean() < 2.0  # of 255: the same noise, the same pictures


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_equal_calls_of_all_batches_give_equal_bits(engines: Engines, precision: Precision) -> None:
    golden = read_golden(engines.bundle("digits", precision))
    with engines.opened("digits", precision) as runner:
        checks.check_repeats(runner, golden)


def test_two_engines_work_at_once(engines: Engines) -> None:
    """Each in a thread and a stream of its own, with batches of its own: the numbers of one alone."""
    golden = read_golden(engines.bundle("digits", "fp16"))
    with engines.opened("digits", "fp16") as runner:
        alone = {size: runner.infer(dict(case.inputs)) for size, case in golden.cases.items()}

    def work(sizes: list[int]) -> bool:
        with engines.opened("digits", "fp16") as runner:
            made = [(size, runner.infer(dict(golden.cases[size].inputs))) for size in sizes * AT_ONCE]
        return all(checks.equal(each, alone[size]) for size, each in made)

    sizes = sorted(golden.cases)
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(work, [sizes, sizes[::-1]])) == [True, True]


def test_a_thousand_calls_keep_no_memory(engines: Engines) -> None:
    golden = read_golden(engines.bundle("digits", "fp16"))
    with engines.opened("digits", "fp16") as runner:
        grown = checks.memory_growth(runner, golden)
    engines.record("digits-fp16/memory_growth", grown)
    assert grown <= checks.PAGE


def test_a_closed_engine_gives_its_memory_back(engines: Engines) -> None:
    """The first one loads the library's own kernels, which stay; a second leaves nothing."""
    bundle = engines.bundle("digits", "fp16")
    inputs = dict(read_golden(bundle).cases[8].inputs)
    left = []
    for _ in range(4):
        with engines.opened("digits", "fp16") as runner:
            runner.infer(inputs)
        left.append(checks.free_memory())
    engines.record("digits-fp16/left_after_close", [left[1] - each for each in left])
    assert left[1] - left[-1] <= checks.PAGE


def test_the_same_tokens_are_replaced(engines: Engines, built: Built, tmp_path: Path) -> None:
    """The decisions of FP32 on the CPU, for every step of the golden trajectory."""
    from dsr_export.backends.tensorrt.build import build_engine

    exact, half = built("digits-outliers", "fp32"), engines.bundle("digits-outliers", "fp16")
    where = opened_here(engines.kind).target
    specs, manifest = exact.manifest.input_specs(), half.manifest
    with OnnxRuntimeRunner(exact.file(MODEL), inputs=specs) as runner:
        inputs = walked_inputs(exact, runner)
    with OnnxRuntimeRunner(deciding_model(exact, tmp_path / "fp32"), inputs=specs) as runner:
        wanted = decisions(runner, inputs, exact)
    model, batch = deciding_model(half, tmp_path / "fp16"), manifest.batch_range()
    assert isinstance(batch, BatchRange)
    plan = bytes(build_engine(model, where, batch=batch, inputs=manifest.inputs).plan)
    with TensorRTRunner(plan, backend=where.backend, inputs=manifest.inputs) as engine:
        found = decisions(engine, inputs, half)
    assert wanted.keys() == found.keys() and any(mask.any() for mask in wanted.values())
    for name, mask in wanted.items():
        np.testing.assert_array_equal(found[name], mask)


def test_an_engine_for_another_gpu_is_refused(built: Built, capability: str, tmp_path: Path, figures: Figures) -> None:
    need_rtx()
    other = "8.9" if capability == "8.6" else "8.6"
    out = tmp_path / "foreign.dsr"
    made = command(
        *("compile", built("digits", "fp16").path, "--target", f"rtx:sm{other.replace('.', '')}", "--out", out)
    )
    assert made.returncode == 0, made.stderr[-3000:]
    found = command("verify", out, "--runtime", "tensorrt-rtx")
    figures.record("engine/foreign", " ".join(found.stderr.split())[-600:])
    assert found.returncode == 1
    assert f"for compute capability {other}, and this GPU has {capability}" in " ".join(found.stderr.split())
    assert command("verify", out).returncode == 0  # `auto` leaves that engine alone
