"""`bench --roofline`: estimates of engines, without running them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dsr_export.benchmark import estimates
from dsr_export.benchmark.estimates import Engine, rows
from dsr_export.config import ModelRequest
from dsr_export.engine_schedule.devices import DEVICES, named_devices
from dsr_export.engine_schedule.plan_text import UnreadableSchedule
from dsr_export.engine_schedule.record import EngineSchedule, Launch
from dsr_export.families import load_subject
from tests.conftest import Cli


def test_a_bundle_is_estimated_on_the_devices_named(digits_bundle: Path, cli: Cli) -> None:
    done = cli("bench", digits_bundle, digits_bundle, "--roofline", "orin-agx, h100-sxm", "--json")
    if "has no engine" in done.err:
        pytest.skip("needs the rtx extra")
    assert done.code == 0, done.err
    first, second = json.loads(done.out)["estimates"]
    assert first == second and set(first["devices"]) == {"orin-agx", "h100-sxm"}
    slow, fast = first["devices"]["orin-agx"], first["devices"]["h100-sxm"]
    assert slow["stream_ms"] > slow["graph_ms"] > fast["graph_ms"] > 0
    assert (slow["stream_ratio"], fast["graph_ratio"]) == (1.0, 1.0)
    said = cli("bench", digits_bundle, "--roofline", "l4")
    assert "estimates, not measurements" in said.out and f"{first['launches']} launches" in said.out


@pytest.mark.parametrize(
    ("what", "devices", "said"),
    [
        (["some.onnx"], "l4", "has no engine to estimate"),
        (["digits"], "rtx4091", "did you mean 'rtx4090'"),
        (["."], "l4", "manifest"),
        ([".", "digits"], "l4", "not compared with models"),
    ],
)
def test_what_cannot_be_estimated_is_refused(what: list[str], devices: str, said: str, cli: Cli) -> None:
    done = cli("bench", *what, "--roofline", devices)
    assert done.code == 1
    assert said in done.err


def _engine(name: str, computes: str) -> Engine:
    sizes: dict[str, dict[str, int]] = {"read": {"float16": 1000}, "written": {}}
    launch = Launch(kind="gemm", kernel="k", nodes=(), computes=computes, operations=10**9, **sizes)
    return Engine(name, EngineSchedule(batch=2, launches=(launch,), passed=()))


HALF, FP8 = _engine("half", "float16"), _engine("fp8", "float8e4m3")
BOTH = named_devices(["orin-agx", "l4"])


def test_an_engine_has_no_time_on_a_device_that_lacks_its_types() -> None:
    half, fp8 = rows([HALF, FP8], BOTH)
    assert set(half["devices"]) == set(BOTH) and half["not_estimated"] == {}
    assert set(fp8["devices"]) == {"l4"} and fp8["not_estimated"] == {"orin-agx": "orin-agx has no FP8"}
    assert fp8["devices"]["l4"]["graph_ratio"] < 1


def test_an_engine_that_does_not_tell_what_it_launches_is_left_out_beside_one_that_does(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = [SimpleNamespace(name=name, engine=f"engines/{name}.plan") for name in ("rtx", "trt10")]
    manifest = SimpleNamespace(targets=targets, batch=SimpleNamespace(opt=2))
    monkeypatch.setattr(estimates.Bundle, "open", lambda path: SimpleNamespace(manifest=manifest))

    def schedule(bundle: object, engine: Any, batch: int) -> EngineSchedule:
        if engine.name in silent:
            raise UnreadableSchedule("the engine was not inspected")
        return HALF.schedule

    monkeypatch.setattr(estimates, "bundle_schedule", schedule)
    silent = ["trt10"]
    done = cli("bench", tmp_path, "--roofline", "l4", "--json")
    assert done.code == 0 and [each["name"] for each in json.loads(done.out)["estimates"]] == [f"{tmp_path.name} rtx"]
    assert "trt10.plan cannot be read: the engine was not inspected" in done.err
    silent.append("rtx")
    done = cli("bench", tmp_path, "--roofline", "l4", "--json")
    assert (done.code, done.out) == (1, "") and "rtx.plan cannot be read" in done.err


def test_what_does_not_run_on_a_device_is_compared_with_nothing() -> None:
    _, half = rows([FP8, HALF], BOTH)
    orin, other = (half["devices"][name] for name in BOTH)
    assert (orin["graph_ratio"], orin["stream_step"]) == (None, None) and other["graph_ratio"] > 1


def test_the_lines_say_what_has_no_estimate(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsr_export.benchmark.estimates._of_model", lambda *_: [FP8, HALF])
    done = cli("bench", "digits", "--roofline", "orin-agx,l4")
    assert done.code == 0 and "  orin-agx   no estimate: orin-agx has no FP8\n" in done.out
    assert any("orin-agx" in line and "ms      -      -" in line for line in done.out.splitlines())


def test_devices_that_run_none_of_the_engines_are_refused(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsr_export.benchmark.estimates._of_model", lambda *_: [FP8, FP8])
    done = cli("bench", "digits", "--roofline", "orin-agx,orin-nx", "--json")
    assert (done.code, done.out) == (1, "") and "orin-agx has no FP8, orin-nx has no FP8" in done.err
    assert "choose from thor, rtx4060" in done.err


@pytest.mark.slow
def test_run_time_dsr_costs_launches() -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the rtx extra")
    from dsr_export.benchmark.estimates import estimated
    from dsr_export.progress import Silent

    assert any(load_subject("digits-outliers").dsr.sites().values())
    asked = ModelRequest(model="digits-outliers")
    bare, plain, dsr = estimated([], asked, ["l4"], batch=1, reporter=Silent())
    assert (bare["name"], plain["name"], dsr["name"]) == ("bare", "plain", "dsr")
    assert dsr["launches"] > plain["launches"] and plain["moved_bytes"] > bare["moved_bytes"]
    steps, ratios = ([row["devices"]["l4"][key] for row in (bare, plain, dsr)] for key in ("graph_step", "graph_ratio"))
    assert steps[0] == 1.0 and min(steps[1:]) > 1.0
    assert ratios == pytest.approx([1.0, steps[1], steps[1] * steps[2]])


def test_the_help_names_every_device(cli: Cli) -> None:
    said = " ".join(cli("bench", "--help").out.split())
    assert all(name in said for name in DEVICES)
