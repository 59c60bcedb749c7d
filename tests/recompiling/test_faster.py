"""`compile --keep-if-faster`, on a stand-in for the GPU: engines take as long as they are told to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dsr_export.backends.cuda.driver import Cuda
from dsr_export.backends.opening import bundle_runner
from dsr_export.backends.tensorrt import runner as tensorrt_runner
from dsr_export.backends.tensorrt.build import Engine, build_engine
from dsr_export.benchmark import gpu_facts
from dsr_export.bundle.reader import Bundle
from dsr_export.recompiling import faster, recompile
from graphs.targets import target
from tests.backends.tensorrt.driver_stand_in import Driver
from tests.conftest import Cli
from tests.pipeline_parts import rewritten


@pytest.fixture(scope="module")
def engine(denoiser_bundle: Path) -> Engine:
    """The one engine of both bundles, which hold the same graph; built once."""
    pytest.importorskip("tensorrt_rtx", reason="needs the rtx extra")
    bundle = Bundle.open(denoiser_bundle)
    model, manifest = bundle.file(bundle.engine_graph), bundle.manifest
    return build_engine(model, target("rtx"), batch=manifest.batch_range(), inputs=manifest.inputs)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, denoiser_bundle: Path, engine: Engine) -> Iterator[SimpleNamespace]:
    """`costs` are the milliseconds of the engines in the order in which they are opened to be timed."""
    monkeypatch.setattr("dsr_export.backends.tensorrt.build.build_engine", lambda *_, **__: engine)
    gpu = SimpleNamespace(costs=[1.0, 2.0], gains=[1.0, 1.0], open=0)

    class Runner:
        name = "tensorrt_rtx"

        def __init__(self, plan: bytes, *, graphs: str | None = None, **_: Any) -> None:
            self.inner = bundle_runner(Bundle.open(denoiser_bundle), "onnxruntime")
            if graphs is None:  # to be judged
                self.gain = gpu.gains.pop(0)
            else:
                self.cost, self.replays = gpu.costs.pop(0), SimpleNamespace(of={})

        def __enter__(self) -> Any:
            gpu.open += 1
            return self

        def __exit__(self, *error: object) -> None:
            gpu.open -= 1

        def infer(self, fed: dict[str, Any]) -> dict[str, Any]:
            if not hasattr(self, "gain"):
                return {}
            return {name: value * np.float32(self.gain) for name, value in self.inner.infer(fed).items()}

        def upload(self, array: Any) -> Any:
            return array

        def infer_on_device(self, fed: dict[str, Any]) -> dict[str, Any]:
            return {}

        def milliseconds(self, work: Any) -> float:
            work()
            return float(self.cost)

    monkeypatch.setattr(tensorrt_runner, "TensorRTRunner", Runner)
    for module in (recompile, faster):
        monkeypatch.setattr(module, "runs_here", lambda target: True)
    monkeypatch.setattr(gpu_facts, "open_cuda", lambda: Cuda(Driver()))
    yield gpu
    assert gpu.open == 0


@pytest.fixture(scope="module")
def int8(denoiser_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same bundle that says it is INT8."""
    return rewritten(denoiser_bundle, tmp_path_factory.mktemp("int8") / "int8.dsr", precision="int8")


@pytest.fixture(scope="module")
def half(denoiser_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rewritten(denoiser_bundle, tmp_path_factory.mktemp("half") / "half.dsr", precision="fp16")


@pytest.mark.parametrize(
    ("costs", "gains", "kept", "said"),
    [
        ([1.0, 1.5], [1.0, 1.0], "int8", "1.500x"),
        ([1.0, 1.02], [1.0, 1.0], "int8", "1.020x"),
        ([1.0, 1.01], [1.0, 1.0], "fp16", "at least 1.02x is asked for"),
        ([2.0, 1.0], [1.0, 1.0], "fp16", "0.500x"),
        ([1.0, 1.5], [1.5, 1.0], "fp16", "the int8 engine failed its parity"),
    ],
)
def test_the_lower_precision_is_kept_where_it_is_faster_and_right(
    gpu: SimpleNamespace,
    int8: Path,
    half: Path,
    cli: Cli,
    tmp_path: Path,
    costs: list[float],
    gains: list[float],
    kept: str,
    said: str,
) -> None:
    gpu.costs, gpu.gains = costs[:], gains
    out = tmp_path / "out.dsr"
    done = cli("compile", int8, "--target", "rtx", "--keep-if-faster", half, "--out", out)
    assert done.code == 0, done.err
    assert f"kept {kept}: int8 takes {costs[0]:.3f} ms, fp16 {costs[1]:.3f} ms" in done.out and said in done.out
    made = Bundle.open(out)
    assert made.manifest.precision == kept and made.engine("rtx") is not None
    told = made.report()["compiled"]["rtx"]["keep_if_faster"]
    assert (told["kept"], told["needed"], told["lower_ms"], told["wider_ms"]) == (kept, 1.02, *costs)
    assert told["speedup"] == pytest.approx(costs[1] / costs[0]) and told["gpu"]["name"] == "NVIDIA L4"
    source = Bundle.open(int8 if kept == "int8" else half)
    assert made.manifest.files["model.onnx"] == source.manifest.files["model.onnx"]
    assert made.manifest.provenance["compiled"]["rtx"]["from"] == source.manifest.digest


def test_the_same_again_is_up_to_date(gpu: SimpleNamespace, int8: Path, half: Path, cli: Cli, tmp_path: Path) -> None:
    asked = ("compile", int8, "--target", "rtx", "--keep-if-faster", half, "--out", tmp_path / "out.dsr")
    assert json.loads(cli(*asked, "--json").out)["compiled"]["rtx"]["keep_if_faster"]["kept"] == "int8"
    assert "is up to date" in cli(*asked).err


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("no gpu", "no GPU here runs an engine for 'rtx'"),
        ("same", "is int8, which is not lower than the int8"),
        ("order", "is fp16, which is not lower than the int8"),
        ("model", "they differ in weights"),
        ("component", "leave --component out"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_built(
    gpu: SimpleNamespace,
    int8: Path,
    half: Path,
    case: str,
    said: str,
    cli: Cli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pipeline_bundle: Path,
) -> None:
    monkeypatch.setattr("dsr_export.backends.tensorrt.build.build_engine", None)
    bundle, wider, more = int8, half, tuple[str, ...]()
    if case == "no gpu":
        monkeypatch.setattr(faster, "runs_here", lambda target: False)
    elif case == "same":
        wider = int8
    elif case == "order":
        bundle, wider = half, int8
    elif case == "model":
        wider = rewritten(half, tmp_path / "other.dsr", provenance={"random_seed": 5})
    else:
        bundle, more = pipeline_bundle, ("--component", "decoder")
    done = cli("compile", bundle, "--target", "rtx", "--keep-if-faster", wider, "--out", tmp_path / "out.dsr", *more)
    assert done.code == 1 and said in done.err + done.out, done.err
    assert not (tmp_path / "out.dsr").exists()
