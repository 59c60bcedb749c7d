"""`bench --runtime` of a GPU, on stand-ins: what is timed, how it is told, and what it is held against."""

from __future__ import annotations

import gc
import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dsr_export.backends import opening
from dsr_export.backends.cuda import clocks as clocks_module
from dsr_export.backends.cuda import replay
from dsr_export.backends.cuda.clocks import clock_words, clocks
from dsr_export.backends.cuda.driver import Cuda
from dsr_export.backends.tensorrt.runner import TensorRTRunner
from dsr_export.benchmark import gpu_facts, on_gpu
from dsr_export.benchmark.contestants import _names
from dsr_export.benchmark.gpu_race import GpuContestant, gpu_race
from dsr_export.engine_schedule.devices import DEVICES, device_called
from dsr_export.engine_schedule.record import EngineSchedule, Launch
from dsr_export.errors import RunnerError
from tests.backends.cuda_stand_in import stand_in as cuda_provider
from tests.backends.tensorrt.driver_stand_in import Driver
from tests.backends.tensorrt.engine_stand_in import SPECS, Gpu, stand_in
from tests.conftest import Cli

FEEDS = {"x": np.ones((2, 3), np.float32), "t": np.ones(2, np.float32)}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    return stand_in(monkeypatch)


def contestant(name: str) -> GpuContestant:
    def opened(graphs: Any) -> TensorRTRunner:
        return TensorRTRunner(b"plan", backend="tensorrt_rtx", inputs=SPECS, graphs=graphs)

    return GpuContestant(name=name, open=opened, graphs=("never", "always"))


def raced(*names: str, rounds: int = 4) -> tuple[dict[tuple[str, str, bool], Any], dict[str, int | None]]:
    found, memory = gpu_race(
        [contestant(name) for name in names], FEEDS, rounds=rounds, warmup=1, progress=lambda done, of: None
    )
    return {(each.name, each.place, each.graph): each for each in found}, memory


def test_every_way_is_timed_between_events_of_the_gpu(gpu: Gpu) -> None:
    found, memory = raced("a", "b")
    ways = {(place, graph) for _, place, graph in found}
    assert ways == {("host", False), ("host", True), ("device", False), ("device", True)} and len(found) == 8
    for (_, _, graph), each in found.items():
        cost = 1.0 if graph else gpu.stream_cost  # the stand-in's clock
        assert (each.median_ms, each.p95_ms, each.p99_ms, each.ratio) == (cost, cost, cost, 1.0)
    assert memory["a"] is not None and memory["a"] > 0
    assert gpu.driver.held == {}


def test_a_graph_that_cannot_be_captured_is_no_time(gpu: Gpu) -> None:
    gpu.capturable = False
    found, _ = raced("a")
    for place in ("host", "device"):
        assert found["a", place, True].median_ms is None
        assert "cannot be captured" in str(found["a", place, True].problem)
        assert found["a", place, False].median_ms == gpu.stream_cost and found["a", place, False].problem is None


def test_a_failure_on_the_way_gives_everything_back(gpu: Gpu) -> None:
    def broken(graphs: Any) -> TensorRTRunner:
        raise ValueError("mine")

    entrants = [contestant("a"), GpuContestant(name="b", open=broken, graphs=("never",))]
    with pytest.raises(ValueError, match="mine"):
        gpu_race(entrants, FEEDS, rounds=3, warmup=0, progress=lambda done, of: None)
    assert gpu.driver.held == {}


def test_a_failure_at_any_call_of_the_driver_is_said_and_gives_everything_back(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "RACES", 1)
    raced("a", "b", rounds=1)
    calls = gpu.driver.log[:]
    failed = set()
    for at in range(0, len(calls), 7):
        gpu.driver.log.clear()
        gpu.driver.fail_at = at
        try:
            found, _ = raced("a", "b", rounds=1)
        except RunnerError:
            failed.add(calls[at])
        else:  # a graph that could not be had is no time
            assert all((each.median_ms is None) == (each.problem is not None) for each in found.values())
        gc.collect(0)
        assert gpu.driver.held == {} and gpu.driver.current == [] and gpu.alive == set(), (at, calls[at])
    assert {"cuMemcpyHtoDAsync", "cuEventRecord", "execute"} <= failed


def test_a_contestant_that_fails_as_it_may_is_said_and_the_others_are_timed(gpu: Gpu) -> None:
    class Uncapturable(Timed):
        def infer_on_device(self, inputs: dict[str, Any]) -> dict[str, Any]:
            raise RuntimeError("Cannot copy during CUDA graph capture\nand more")

    entrants = [
        contestant("a"),
        GpuContestant(name="b", open=lambda graphs: Uncapturable(1), graphs=("never",), may_raise=(RuntimeError,)),
    ]
    found, _ = gpu_race(entrants, FEEDS, rounds=3, warmup=0, progress=lambda done, of: None)
    problems = {(each.name, each.place): each.problem for each in found if not each.graph}
    said = "it fails: RuntimeError: Cannot copy during CUDA graph capture"
    assert problems == {("a", "host"): None, ("a", "device"): None, ("b", "host"): said, ("b", "device"): said}


class Timed:
    """A runner of any model that takes as long as it is told."""

    def __init__(self, cost: float) -> None:
        self.cost, self.replays = cost, SimpleNamespace(of={})

    def __enter__(self) -> Timed:
        return self

    def __exit__(self, *_: object) -> None: ...

    def upload(self, array: np.ndarray) -> np.ndarray:
        return array

    def infer(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return {}

    infer_on_device = infer

    def milliseconds(self, work: Any) -> float:
        work()
        return self.cost

    def taken(self) -> int:
        return 5_000_000


def test_the_estimate_is_judged_by_what_was_measured(
    digits_bundle: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the rtx extra")
    monkeypatch.setattr(gpu_facts, "open_cuda", lambda: Cuda(Driver()))
    monkeypatch.setattr(on_gpu, "engine_runner", lambda *_, graphs, say: Timed(1.0 if graphs == "always" else 2.0))
    asked = ("bench", digits_bundle, "--runtime", "tensorrt-rtx", "--rounds", "3", "--warmup", "0")
    done = cli(*asked, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["gpu"]["name"] == "NVIDIA L4" and found["gpu"]["cuda"] == "13.0"
    (model,) = found["models"].values()
    told = model["estimate"]
    assert told["device"] == "l4" and model["memory_bytes"] == 5_000_000
    assert told["stream_measured"] == pytest.approx(2.0 / told["stream_ms"])
    assert told["graph_measured"] == pytest.approx(1.0 / told["graph_ms"])
    text = cli(*asked)
    assert "NVIDIA L4, a driver for CUDA 13.0; before: clocks are not told here" in text.out
    assert "estimated for l4: stream" in text.out and "5.0 MB of the GPU's memory" in text.out


def test_an_engine_that_the_data_sheet_has_no_rate_for_is_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: dict[str, dict[str, int]] = {"read": {"float8e4m3": 1}, "written": {}}
    launch = Launch(kind="gemm", kernel="k", nodes=(), computes="float8e4m3", operations=1, **sizes)
    schedule = EngineSchedule(batch=2, launches=(launch,), passed=())
    monkeypatch.setattr(on_gpu, "bundle_schedule", lambda *_: schedule)
    engine: Any = (None, None)
    orin, l4 = ({"name": name, "memory_bytes": 64 << 30} for name in ("Orin", "NVIDIA L4"))
    assert on_gpu._judged("m", engine, 2, orin, []) == {"problem": "by its data sheet orin-agx has no FP8"}
    assert on_gpu._judged("m", engine, 2, l4, [])["problem"] is None


def test_graphs_are_timed_on_the_gpu_as_well(denoiser_bundle: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = cuda_provider(monkeypatch)
    monkeypatch.setattr(gpu_facts, "open_cuda", lambda: Cuda(Driver()))
    options = ("--runtime", "onnxruntime-cuda", "--rounds", "3", "--warmup", "0", "--json")
    done = cli("bench", denoiser_bundle, denoiser_bundle / "model.onnx", *options)
    assert done.code == 0, done.err
    rows = json.loads(done.out)["timings"]
    assert [(row["name"], row["place"], row["graph"]) for row in rows] == [
        (name, place, graph)
        for name in ("denoiser.dsr", "model.onnx")
        for graph in (False, True)
        for place in ("host", "device")
    ]
    assert all(row["median_ms"] > 0 for row in rows) and len(provider.asked) == 4


@pytest.mark.parametrize(
    ("runtime", "said"), [("tensorrt-rtx", "holds no tensorrt-rtx engine"), ("onnxruntime-cuda", "GPU")]
)
def test_without_an_engine_or_a_gpu_it_says_so(
    runtime: str, said: str, denoiser_bundle: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "compute_capability", lambda: None)
    done = cli("bench", denoiser_bundle, "--runtime", runtime)
    assert (done.code, done.out) == (1, "") and said in done.err


def test_clocks_are_what_nvidia_smi_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def smi(command: list[str], **_: Any) -> Any:
        asked.append(command)
        return SimpleNamespace(stdout="2040, 2100, 6251, 54, [N/A]\n")

    monkeypatch.setattr(clocks_module.subprocess, "run", smi)
    told = clocks("0000:01:00.0")
    assert told == {"sm_mhz": 2040, "most_sm_mhz": 2100, "memory_mhz": 6251, "degrees": 54, "watts": None}
    assert clock_words(told) == "SM 2040 of 2100 MHz, memory 6251 MHz" and "0000:01:00.0" in asked[0]

    def missing(*_: Any, **__: Any) -> Any:
        raise subprocess.TimeoutExpired("nvidia-smi", 1)

    monkeypatch.setattr(clocks_module.subprocess, "run", missing)
    assert set(clocks("0").values()) == {None}


def test_devices_are_found_by_the_drivers_name() -> None:
    assert device_called("NVIDIA L4", 0) == "l4" and device_called("NVIDIA L40", 0) is None
    assert (device_called("Orin", 64 << 30), device_called("Orin", 16 << 30)) == ("orin-agx", "orin-nx")
    names = ("NVIDIA Thor", "NVIDIA GeForce RTX 4090", "NVIDIA H100 80GB HBM3")
    assert {device_called(name, 0) for name in names} <= set(DEVICES)


def test_names_tell_contestants_apart() -> None:
    """What is measured of one must not be told of another."""
    paths = [Path(each) for each in ("a/m.dsr", "b/m.dsr", "c/n.dsr", "a/m.dsr")]
    assert _names(paths) == ["a/m.dsr #1", "b/m.dsr", "n.dsr", "a/m.dsr #2"]


def test_a_raw_export_stands_beside_an_engine(digits_bundle: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the rtx extra")
    provider = cuda_provider(monkeypatch)
    monkeypatch.setattr(gpu_facts, "open_cuda", lambda: Cuda(Driver()))
    monkeypatch.setattr(on_gpu, "engine_runner", lambda *_, graphs, say: Timed(1.25))
    options = ("--runtime", "tensorrt-rtx", "--rounds", "3", "--warmup", "0", "--json")
    done = cli("bench", digits_bundle, digits_bundle / "model.onnx", *options)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert [row["name"] for row in found["timings"]] == ["digits.dsr"] * 4 + ["model.onnx"] * 4
    assert found["models"]["model.onnx"]["estimate"] is None and len(provider.asked) == 2
