"""The report of a bundle that gets an engine: its verdict is over all that stands in it, pictures included."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest

from dsr_export.bundle.manifest_parts import BundleTarget
from dsr_export.parity.checks.pictures import PictureRow
from dsr_export.parity.checks.table import ParityReport
from dsr_export.parity.metrics import Comparison
from dsr_export.parity.rows import ParityRow
from dsr_export.parity.tolerances import TOLERANCES
from dsr_export.recompiling.new_contents import Compiled, CompiledStep, _outer_report, _report
from dsr_export.reports.record import Report
from graphs.targets import target
from tests.reports.sample_report import full_report, parity_row

FIGURES = {"max_abs": 0.0, "mean_abs": 0.0, "cosine": 1.0, "psnr_db": 300.0, "snr_db": 300.0, "range": 1.0}
ROW = ParityRow.of("batch-1", "out", "tensorrt_rtx", "torch-fp32", Comparison(**FIGURES), TOLERANCES["fp16"])
SOUND = PictureRow(runtime="tensorrt_rtx", image=0, psnr_db=60.0, ssim=0.9, psnr_floor_db=45.0, ssim_floor=0.5)
WRONG = replace(SOUND, ssim=0.1)


@dataclass
class Built:
    """As much of a bundle as its report needs."""

    told: dict[str, Any]
    targets: tuple[str, ...] = ()

    @property
    def manifest(self) -> Any:
        return SimpleNamespace(
            targets=[BundleTarget(name=name, backend="tensorrt_rtx", version="1.7") for name in self.targets]
        )

    def report(self) -> dict[str, Any]:
        return self.told

    def file(self, name: str) -> str:
        return name


def _passing(**other: Any) -> dict[str, Any]:
    check = {"name": "half_weight_fraction", "value": 1.0, "limit": 0.01, "passed": True}
    return {**full_report(), "passed": True, "parity": [parity_row()], "checks": [check], **other}


def _compiled(*images: PictureRow, parity: bool = True) -> Compiled:
    engine: Any = SimpleNamespace(plan=b"plan", facts={"tool": "tensorrt_rtx", "version": "1.7"})
    found = ParityReport((ROW,), images=images) if parity else None
    return Compiled(target=target("rtx"), engine=engine, key="0" * 64, seconds=1.0, parity=found, not_run=None)


def _made(told: dict[str, Any], compiled: Compiled, *targets: str) -> Report:
    return _report(Built(told, targets), compiled)  # type: ignore[arg-type]


@pytest.mark.parametrize(("image", "passed"), [(SOUND, True), (WRONG, False)])
def test_a_failing_picture_of_the_new_engine_fails_the_bundle(image: PictureRow, passed: bool) -> None:
    made = _made(_passing(), _compiled(image))
    assert made.passed is passed
    assert [each.passed for each in made.images] == [True, passed]
    assert [row.target for row in made.parity] == [None, "rtx"]


def test_a_failing_picture_of_the_build_stays_a_failure_where_no_engine_is_run() -> None:
    failed = {**full_report()["images"][0], "passed": False}
    told = _passing(images=[failed], passed=False)
    assert not _made(told, _compiled(parity=False)).passed
    assert not _outer_report(Built(told), "decoder", {"report.json": b'{"passed": true}'}, _compiled()).passed  # type: ignore[arg-type]


def test_the_pictures_of_a_replaced_engine_go_with_its_rows() -> None:
    failed = {**full_report()["images"][0], "passed": False, "runtime": "tensorrt_rtx"}
    told = _passing(images=[failed], parity=[parity_row(), parity_row(runtime="tensorrt_rtx", passed=False)])
    assert _made(told, _compiled(SOUND), "rtx").passed
    assert not _made(told, _compiled(parity=False), "rtx", "rtx:sm89").passed  # whose they are is not known


def test_nothing_is_made_up_for_a_report_of_before() -> None:
    lacking = ("engines_not_run", "images", "samples", "signed_by", "manifest_digest", "special_rows")
    told = {key: value for key, value in _passing().items() if key not in lacking}
    made = _made(told, _compiled(parity=False)).as_dict()
    assert set(made) - set(told) == {"images"}
    assert json.dumps(made["parity"]) == json.dumps(Report.read(told).as_dict()["parity"])


def test_a_wrong_step_is_a_failure_of_what_was_compiled() -> None:
    sound, wrong = ParityReport((ROW,)), ParityReport((ROW,), images=(WRONG,))
    alone = _compiled()
    assert alone.passed and _compiled(parity=False).passed
    for parity, passed in ((None, True), (sound, True), (wrong, False)):
        step = CompiledStep(engine=alone.engine, parity=parity)
        assert replace(alone, step=step).passed is passed
        told = _made(_passing(), replace(alone, step=step))
        assert told.passed is passed
        assert [row.target for row in told.parity] == [None, "rtx", *(["step/engines/rtx.plan"] if parity else [])]
