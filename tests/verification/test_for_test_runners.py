"""What `verify` reports is what the plugin planned, whatever precision and runtime; a failure is never hidden."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest

from dsr_export.backends.runtime_names import GRAPH_RUNTIMES, Runtime
from dsr_export.bundle.manifest import BundleTarget
from dsr_export.bundle.reader import Bundle
from dsr_export.bundle.writer import write_bundle
from dsr_export.errors import ExportError
from dsr_export.reports.junit import junit
from dsr_export.reports.markdown import markdown_table
from dsr_export.reports.page import report_page
from dsr_export.reports.record import Check, Picture, Report
from dsr_export.verification import for_test_runners, runtime_checks, verify
from dsr_export.verification.for_test_runners import BundleChecks, Planned, reported
from graphs.precisions import PRECISIONS, Precision
from tests.pipeline_parts import rewritten

ENGINES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx", "auto": "tensorrt_rtx"}


class Golden:
    """A runtime that knows the golden vectors by heart, and makes zeros of everything else."""

    def __init__(self, bundle: Bundle, name: str) -> None:
        self.name, self._shapes = name, {spec.name: spec.shape[1:] for spec in bundle.manifest.outputs}

    def __enter__(self) -> Golden:
        return self

    def __exit__(self, *_: object) -> None: ...

    def infer(self, inputs: dict[str, Any]) -> dict[str, Any]:
        rows = len(next(iter(inputs.values())))
        return {name: np.zeros((rows, *shape), np.float32) for name, shape in self._shapes.items()}


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Every runtime makes zeros. `engines`: whether a GPU is at hand."""
    here = SimpleNamespace(engines=True)

    def chosen(bundle: Bundle, runtime: str) -> BundleTarget | None:
        backend = ENGINES.get(runtime) if here.engines or runtime != "auto" else None
        return next((each for each in bundle.manifest.targets if each.engine and each.backend == backend), None)

    def opened(bundle: Bundle, runtime: str, say: Any) -> Golden:
        engine = chosen(bundle, runtime)
        if engine is None and runtime not in ("auto", *GRAPH_RUNTIMES):
            raise ExportError("no such engine")
        graph = runtime if runtime in GRAPH_RUNTIMES else "onnxruntime"
        return Golden(bundle, graph if engine is None else engine.backend)

    def fused(bundle: Bundle, graph: str) -> Golden | None:
        return Golden(bundle, "onnxruntime") if PRECISIONS[bundle.manifest.precision].fused else None

    monkeypatch.setattr(verify, "chosen_engine", chosen)
    monkeypatch.setattr(runtime_checks, "bundle_runner", opened)
    monkeypatch.setattr(runtime_checks, "_typed", lambda bundle, graph: Golden(bundle, "onnxruntime"))
    monkeypatch.setattr(runtime_checks, "_fused", fused)
    monkeypatch.setattr(verify, "search_sites", lambda *_, **__: None)
    return here


@pytest.fixture(scope="module")
def bundles(pipeline_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The pipeline in the words of every precision, with engines of both backends."""
    folder, opened = tmp_path_factory.mktemp("precisions"), Bundle.open(pipeline_bundle)
    plans = {f"engines/{name}.plan": b"plan" for name in ("rtx", "trt10")}
    engines = tuple(
        BundleTarget(name=name, backend=backend, version="10.0", engine=f"engines/{name}.plan")
        for name, backend in (("rtx", "tensorrt_rtx"), ("trt10", "tensorrt"))
    )
    targets = (*opened.manifest.targets, *engines)
    return {
        precision: rewritten(pipeline_bundle, folder / f"{precision}.dsr", plans, precision=precision, targets=targets)
        for precision in get_args(Precision)
    }


def _both(path: Path, runtime: Any) -> tuple[list[Any], list[Any]]:
    """What was planned, and what the report came to, in order: one check of all graphs that it is done to."""
    checks = BundleChecks(path=path, runtime=runtime)
    parts = [planned.key for planned, part in reported(checks.report) if not isinstance(part, Picture)]
    return [each.key for each in checks.planned()], list(dict.fromkeys(parts))


@pytest.mark.parametrize("runtime", ["auto", "auto without a GPU", *GRAPH_RUNTIMES])
@pytest.mark.parametrize("precision", get_args(Precision))
def test_the_plan_is_what_verify_comes_to(
    precision: str, runtime: str, bundles: dict[str, Path], stand_ins: SimpleNamespace
) -> None:
    stand_ins.engines = runtime != "auto without a GPU"
    planned, came = _both(bundles[precision], runtime.split()[0])
    assert sorted(planned, key=repr) == sorted(came, key=repr)
    assert len(set(planned)) == len(planned)
    assert {key[0] for key in planned} == {None, "decoder"}


@pytest.mark.parametrize("runtime", sorted({*get_args(Runtime)} - {"auto", *GRAPH_RUNTIMES}))
@pytest.mark.parametrize("precision", get_args(Precision))
def test_the_plan_of_an_engine_is_what_verify_comes_to(
    precision: str, runtime: str, bundles: dict[str, Path], stand_ins: SimpleNamespace, tmp_path: Path
) -> None:
    """Of the denoiser alone: its decoder has none."""
    opened = Bundle.open(bundles[precision])
    files: dict[str, Any] = {
        name: opened.file(name) for name in opened.manifest.files if not name.startswith("components/")
    }
    alone = write_bundle(tmp_path / "alone.dsr", replace(opened.manifest, files={}, components={}), files)
    planned, came = _both(alone, runtime)
    assert sorted(planned, key=repr) == sorted(came, key=repr)
    assert ENGINES[runtime] in {key[1] for key in planned}


def _holding(checks: BundleChecks, report: Report) -> BundleChecks:
    checks.__dict__["_report"] = report  # as if `verify` had come to it
    return checks


@pytest.fixture(scope="module")
def sound(denoiser_bundle: Path) -> tuple[Path, Report]:
    """A bundle that passes, and what `verify` says of it."""
    return denoiser_bundle, verify.verified(denoiser_bundle)


def test_a_second_failing_row_of_the_same_name_fails_its_test(sound: tuple[Path, Report]) -> None:
    path, report = sound
    row = report.parity[0]
    checks = _holding(BundleChecks(path, "auto"), report.changed(parity=(*report.parity, replace(row, passed=False))))
    (planned,) = [each for each in checks.planned() if each.key == (None, row.runtime, row.check, row.output)]
    assert f"{planned.name} failed" in str(checks.failure(planned))


@pytest.mark.parametrize("name", ["half_weight_fraction", "int8_weight_fraction", "rows_of_build", "unheard_of"])
def test_a_second_failing_check_of_one_model_is_seen(name: str, sound: tuple[Path, Report]) -> None:
    """One of the same component, whose first check passes: by its own test where one is of its name, else as unseen."""
    path, report = sound
    second = Check(name=name, value=0.0, limit=1.0, passed=False)
    checks = _holding(BundleChecks(path, "auto"), report.changed(checks=(*report.checks, second), passed=False))
    failed = [each.key[1] for each in checks.planned() if checks.failure(each) is not None]
    assert [*failed, *checks.unplanned_failures()] == [name]


def test_a_check_of_another_component_is_not_taken_for_ones_own(sound: tuple[Path, Report]) -> None:
    path, report = sound
    stray = tuple(replace(check, component="decoder", passed=False) for check in report.checks)
    checks = _holding(BundleChecks(path, "auto"), report.changed(checks=(*report.checks, *stray), passed=False))
    assert not any(checks.failure(each) for each in checks.planned())
    assert len(checks.unplanned_failures()) == len(stray)


def test_a_verdict_that_nothing_explains_is_a_failure(sound: tuple[Path, Report]) -> None:
    path, report = sound
    assert _holding(BundleChecks(path, "auto"), report).unplanned_failures() == []
    assert _holding(BundleChecks(path, "auto"), report.changed(passed=False)).unplanned_failures()


def test_a_check_that_verify_did_not_come_to_fails(sound: tuple[Path, Report]) -> None:
    path, report = sound
    checks = _holding(BundleChecks(path, "auto"), report.changed(checks=()))
    said = checks.failure(Planned.check(None, "precision", "half_weight_fraction"))
    assert "did not come to precision" in str(said)


def test_a_failing_picture_fails_its_trajectory_in_every_form(sound: tuple[Path, Report]) -> None:
    """All rows and checks may pass where a picture is wrong in its structure."""
    path, report = sound
    wrong = replace(report.images[0], ssim=0.1, passed=False)
    failed = report.changed(images=(wrong, *report.images[1:]), passed=False)
    checks = _holding(BundleChecks(path, "auto"), failed)
    said = [checks.failure(each) for each in checks.planned()]
    assert [text for text in said if text] == [
        text for text in said if text and "picture 0: SSIM 0.1, at least" in text
    ]
    assert any(said) and checks.unplanned_failures() == []
    assert 'failures="1"' in junit(failed) and "picture 0: SSIM 0.1" in junit(failed)
    assert "picture 0: SSIM 0.1" in markdown_table(failed)
    page = report_page(failed)
    assert "picture 0: SSIM 0.1" in page and "nothing was compared" not in page


def test_the_table_is_what_is_planned(sound: tuple[Path, Report], monkeypatch: pytest.MonkeyPatch) -> None:
    """One entry more is one test more, and one row more: nothing else knows the checks by name."""
    path, _ = sound
    again = replace(for_test_runners.VERIFIED[0], title="twice", name=lambda precision: "twice")
    for module in (verify, for_test_runners):
        monkeypatch.setattr(module, "VERIFIED", (*module.VERIFIED, again))
    planned, came = _both(path, "auto")
    assert (None, "twice") in planned and sorted(planned, key=repr) == sorted(came, key=repr)
