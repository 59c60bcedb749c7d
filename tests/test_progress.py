"""Progress where nothing can move: lines in a log, and only about what takes long."""

from __future__ import annotations

import threading

import pytest

from dsr_export import progress
from dsr_export.progress import Quiet


def test_a_long_stage_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.01)
    err = ""
    with Quiet().stage("calibrate") as bar:
        bar(3, 8)
        while err.count("\n") < 2:
            err += capsys.readouterr().err
    assert set(err.splitlines()) <= {"calibrate, 0:00", "calibrate 3/8, 0:00"}
    assert "calibrate 3/8, 0:00" in err


def test_a_short_one_says_nothing_and_leaves_no_thread(capsys: pytest.CaptureFixture[str]) -> None:
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError), Quiet().stage("type") as bar:
        bar(1 // 0, 2)
    assert threading.active_count() == before
    assert capsys.readouterr().err == ""
