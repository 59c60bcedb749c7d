"""Which plans fit which machine. GPUs, versions and systems are stand-ins; the rules are the vendor's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dsr_export.backends import opening as runners
from dsr_export.backends.tensorrt import engine_fit
from dsr_export.backends.tensorrt.engine_fit import EngineNeeds, Machine, check_fit, misfits, rebuild_target
from dsr_export.bundle.manifest import BundleTarget
from dsr_export.bundle.reader import Bundle
from dsr_export.errors import ExportError
from dsr_export.stages import engine
from graphs.targets import target
from tests.pipeline_parts import rewritten

LINUX = {"system": "Linux", "machine": "x86_64"}
WINDOWS = {"system": "Windows", "machine": "AMD64"}
JETSON = {"system": "Linux", "machine": "aarch64"}


def plan(name: str, version: str, *capabilities: str, **platform: str) -> EngineNeeds:
    backend = target(name).backend
    return EngineNeeds(
        target=name, backend=backend, version=version, compute_capabilities=capabilities, **{**LINUX, **platform}
    )


def here(version: str | None, capability: str | None, **platform: str) -> Machine:
    return Machine(version=version, compute_capability=capability, **{**LINUX, **platform})


@pytest.mark.parametrize(
    ("needs", "machine"),
    [
        (plan("rtx", "1.7.1.116"), here("1.7.1.116", "8.6")),
        (plan("rtx", "1.7.1.116"), here("1.7.1", "12.0")),  # the same release, written shorter
        (plan("rtx", "1.7.1"), here("1.7.1", "8.9", **WINDOWS)),  # TensorRT-RTX: built ahead of time, for both systems
        (plan("rtx:sm89", "1.7.1", "8.9"), here("1.7.1", "8.9")),
        (plan("jetson-orin", "10.3.0", "8.7", **JETSON), here("10.3.0", "8.7", **JETSON)),
        (plan("rtx:current", "1.7.1", "8.9", **WINDOWS), here("1.7.1", "8.9", **WINDOWS)),
    ],
)
def test_what_fits(needs: EngineNeeds, machine: Machine) -> None:
    assert misfits(needs, machine) == []
    check_fit(needs, machine)


@pytest.mark.parametrize(
    ("needs", "machine", "said", "remedy"),
    [
        (plan("rtx", "1.6.0.9"), here("1.7.1.116", "8.9"), "tensorrt_rtx 1.6.0.9, and 1.7.1.116", "rtx"),
        (plan("rtx", "1.7.1"), here("1.7.1", "8.7"), "8.0, 8.6, 8.9 and 12.0 or later, and this GPU has 8.7", "trt10"),
        (plan("rtx", "1.7.1"), here("1.7.1", "7.5"), "this GPU has 7.5", "rtx:current"),
        (plan("rtx:sm89", "1.7.1", "8.9"), here("1.7.1", "8.6"), "capability 8.9, and this GPU has 8.6", "rtx"),
        (plan("rtx", "1.7.1"), here("1.7.1", "12.1", **JETSON), "Linux x86_64, and this is Linux aarch64", "rtx"),
        (plan("rtx:current", "1.7.1", "8.9"), here("1.7.1", "8.9", **WINDOWS), "this is Windows AMD64", "rtx:current"),
        (plan("trt10", "10.3.0", "8.6"), here("10.3.0", "8.6", **WINDOWS), "this is Windows AMD64", "trt10"),
        (plan("jetson-orin", "10.3.0", "8.7", **JETSON), here("10.7.0", "8.7", **JETSON), "10.7.0 is", "trt10"),
        (plan("jetson-orin", "10.3.0", "8.7", **JETSON), here("11.4.1", "11.0", **JETSON), "has 11.0", "trt11"),
        (plan("trt10", "10.13.0", "9.0"), here("10.13.0", "8.0"), "capability 9.0, and this GPU has 8.0", "trt10"),
    ],
)
def test_what_does_not_fit_says_why_and_how_to_rebuild(
    monkeypatch: pytest.MonkeyPatch, needs: EngineNeeds, machine: Machine, said: str, remedy: str
) -> None:
    monkeypatch.setattr(engine_fit, "installed_version", lambda backend: None)
    assert rebuild_target(needs, machine) == remedy
    with pytest.raises(ExportError, match=f"the engine for '{needs.target}' cannot run.*{said}") as caught:
        check_fit(needs, machine)
    assert f"dsr-export compile BUNDLE --target {remedy};" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("built", "capability", "precision", "remedy"),
    [
        ("rtx:sm89", "12.0", "fp8", "--target rtx:current"),  # not the portable one, which refuses it
        ("rtx:sm89", "12.0", "int8", "--target rtx;"),
        ("rtx:sm120", "9.0", "fp8", "--target trt10"),
        ("rtx:sm120", "10.0", "nvfp4", "--target trt11"),
        ("rtx:sm89", "8.6", "fp8", "no target runs fp8 on this GPU"),
        ("trt10", "8.7", "fp8", "no target runs fp8 on this GPU"),
    ],
)
def test_what_rebuilds_a_plan_takes_its_precision(
    monkeypatch: pytest.MonkeyPatch, built: str, capability: str, precision: str, remedy: str
) -> None:
    monkeypatch.setattr(engine_fit, "installed_version", lambda backend: None)
    needs = replace(plan(built, "1.7.1", "1.0"), precision=precision)
    with pytest.raises(ExportError) as caught:
        check_fit(needs, here("1.7.1", capability))
    assert remedy in str(caught.value.hint)


def test_all_differences_are_named_at_once() -> None:
    assert len(misfits(plan("trt10", "10.3.0", "8.6"), here("10.7.0", "8.9", **WINDOWS))) == 3


def test_plans_from_before_the_platform_was_recorded_are_judged_by_the_rest() -> None:
    entry = BundleTarget(name="trt10", backend="tensorrt", version="10.3.0", compute_capabilities=("8.7",))
    needs = EngineNeeds.of_entry(entry)
    assert misfits(needs, here("10.3.0", "8.7", **JETSON)) == []
    assert len(misfits(needs, here("10.3.0", "8.6"))) == 1


def test_a_target_for_one_gpu_does_not_run_on_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runners, "compute_capability", lambda: "8.6")
    names = ("rtx", "rtx:sm86", "rtx:sm89", "rtx:current", "jetson-orin", "trt10")
    assert [name for name in names if runners.runs_here(target(name))] == ["rtx", "rtx:sm86", "rtx:current", "trt10"]


def test_the_cache_keeps_engines_of_different_machines_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def keys(capability: str) -> list[dict[str, str | None]]:
        monkeypatch.setattr(engine, "compute_capability", lambda: capability)
        return [engine.machine(target(name)) for name in ("trt10", "rtx:current", "rtx")]

    one, other = keys("8.9"), keys("8.6")
    assert [a == b for a, b in zip(one, other, strict=True)] == [False, False, True]  # rtx is built ahead of time
    monkeypatch.setattr(engine_fit.platform, "machine", lambda: "riscv64")
    assert keys("8.6")[2] != other[2]


# -- of a bundle ----------------------------------------------------------------------------------------------------


@pytest.fixture
def engines(digits_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A bundle that claims three engines, and a machine with the GPU of the last two, of which only one fits."""

    def entry(name: str, version: str, *capabilities: str) -> BundleTarget:
        path, where = f"engines/{name.replace(':', '-')}.plan", target(name).backend
        return BundleTarget(
            name=name,
            backend=where,
            version=version,
            compute_capabilities=capabilities,
            engine=path,
            facts={"platform": engine_fit.platform_facts()},
        )

    targets = (entry("rtx:sm120", "1.7.1", "12.0"), entry("rtx:sm89", "1.6.0", "8.9"), entry("rtx", "1.7.1"))
    files = {str(each.engine): each.name.encode() for each in targets}
    for module in (runners, engine_fit):
        monkeypatch.setattr(module, "compute_capability", lambda: "8.9")
        monkeypatch.setattr(module, "installed_version", lambda backend: "1.7.1")
    return Bundle.open(rewritten(digits_bundle, tmp_path / "engines.dsr", files, targets=targets))


@pytest.mark.parametrize("runtime", ["auto", "tensorrt-rtx"])
def test_the_engine_that_fits_is_taken(engines: Bundle, runtime: Any) -> None:
    found = runners.chosen_engine(engines, runtime)
    assert found is not None and found.name == "rtx"


def test_an_engine_for_this_gpu_of_another_version_is_refused_and_not_passed_over(
    engines: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silence would let `verify` succeed on a device without its engine ever being run."""
    monkeypatch.setattr(runners, "installed_version", lambda backend: "1.8.0")
    found = runners.chosen_engine(engines, "auto")
    assert found is not None and found.name == "rtx:sm89"
    with pytest.raises(ExportError, match=r"1\.6\.0, and 1\.8\.0"):
        check_fit(EngineNeeds.of_entry(found), Machine.here("1.8.0"))


def test_without_a_gpu_or_a_fitting_engine_auto_takes_the_graph(
    engines: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    for capability in (None, "8.7"):
        monkeypatch.setattr(runners, "compute_capability", lambda found=capability: found)
        assert runners.chosen_engine(engines, "auto") is None


@pytest.mark.parametrize(("precision", "name"), [("fp16", "rtx"), ("fp8", "rtx:current"), ("nvfp4", "rtx:current")])
def test_the_command_that_makes_an_engine_names_a_target_that_takes_it(precision: str, name: str) -> None:
    bundle: Any = SimpleNamespace(manifest=SimpleNamespace(precision=precision, targets=()), path="b.dsr")
    with pytest.raises(ExportError) as caught:
        runners.chosen_engine(bundle, "tensorrt-rtx")
    assert f"compile b.dsr --target {name};" in str(caught.value.hint)


def test_an_engine_that_is_not_there_names_the_command_that_makes_it(engines: Bundle) -> None:
    with pytest.raises(ExportError, match="holds no tensorrt engine") as caught:
        engines.runner("tensorrt")
    assert f"dsr-export compile {engines.path} --target trt10" in str(caught.value.hint)
