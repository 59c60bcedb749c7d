"""What a worker does with a job, without Ray around it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dsr_export.cluster import commands, worker
from dsr_export.cluster.commands import Ended
from dsr_export.cluster.storage import Storage
from dsr_export.cluster.worker import Job, finished, run_job, seen
from dsr_export.storage.made_with import source_digest
from dsr_export.version import __version__


class Program:
    """Stands in for the command: makes a folder, and ends as told."""

    def __init__(self, exit_code: int = 0, answer: str = "{}") -> None:
        self.exit_code, self.answer = exit_code, answer
        self.calls: list[tuple[str, ...]] = []
        self.environment: dict[str, str] = {}

    def __call__(self, words: tuple[str, ...], log: Path, *, folder: str, environment: dict[str, str]) -> Ended:
        self.calls.append(words)
        self.environment = environment
        if "--out" in words:
            made = Path(words[words.index("--out") + 1])
            made.mkdir()
            (made / "file").write_text(folder)
        return Ended(self.exit_code, self.answer, "notes\n")


def _job(folder: Path, **other: object) -> Job:
    return Job(**{"words": ("build", "digits"), "folder": str(folder), "record": "r/1", "kept": "folder", **other})  # type: ignore[arg-type]


@pytest.mark.parametrize("exit_code", [0, 3])
def test_what_is_made_is_in_the_storage_and_not_made_again(
    exit_code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, url = Program(exit_code), str(tmp_path / "s")
    monkeypatch.setattr(worker, "run_command", program)
    done = run_job(_job(tmp_path), url)
    assert (done.exit_code, list(done.files)) == (exit_code, ["file"])
    assert done.seconds >= 0
    assert run_job(_job(tmp_path), url) == done == finished(Storage(url), "r/1")
    assert len(program.calls) == 1


@pytest.mark.parametrize("exit_code", [1, 2, -9])
def test_what_failed_is_tried_again(exit_code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, url = Program(exit_code), str(tmp_path / "s")
    monkeypatch.setattr(worker, "run_command", program)
    assert run_job(_job(tmp_path), url).exit_code == exit_code
    assert finished(Storage(url), "r/1") is None
    run_job(_job(tmp_path), url)
    assert len(program.calls) == 2


def test_a_folder_that_the_machine_lacks_is_an_error_of_the_job(tmp_path: Path) -> None:
    done = run_job(_job(tmp_path / "elsewhere"), str(tmp_path / "s"))
    assert done.exit_code == 1 and "has no folder" in done.log and str(tmp_path / "elsewhere") in done.log


def test_a_record_of_another_version_is_none(tmp_path: Path) -> None:
    Storage(str(tmp_path / "s")).put_record("r/1", {"exit_code": 0, "colour": "blue"})
    assert finished(Storage(str(tmp_path / "s")), "r/1") is None


def test_entries_of_the_cache_are_taken_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSR_EXPORT_CACHE", str(tmp_path / "cache"))
    place = "evaluation-part/" + "a" * 64
    (tmp_path / "cache" / place).mkdir(parents=True)
    (tmp_path / "cache" / place / "part.npz").write_bytes(b"figures")
    monkeypatch.setattr(worker, "run_command", Program(answer=json.dumps({"stages": [place]})))
    done = run_job(_job(tmp_path, kept="stages", words=("evaluate",)), str(tmp_path / "s"))
    assert list(done.files) == [f"{place}/part.npz"]


@pytest.mark.parametrize("threads", [None, "3"])
def test_threads_are_the_drivers_and_not_rays(
    threads: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = Program()
    monkeypatch.setattr(worker, "run_command", program)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # what Ray says
    run_job(_job(tmp_path, threads=threads), str(tmp_path / "s"))
    assert program.environment.get("OMP_NUM_THREADS") == threads
    assert program.environment["PATH"] == os.environ["PATH"]


def test_a_probe_says_what_the_machine_reads(tmp_path: Path) -> None:
    Storage(str(tmp_path / "s")).put_record("probes/1", {"token": "probes/1"})
    assert seen(str(tmp_path / "s"), "probes/1")["record"] == {"token": "probes/1"}
    assert seen(str(tmp_path / "other"), "probes/1")["record"] is None
    assert seen(str(tmp_path / "s"), "probes/1")["version"] == [__version__, source_digest()]


def test_the_reason_of_a_failure_is_the_last_error() -> None:
    assert commands.last_error(Ended(1, "", "error: a\nhint: b\nerror: c\n")) == "c"
    assert commands.last_error(Ended(2, "", "Usage: x\n\nError: No such option\n")) == "No such option"
    assert "SIGKILL" in commands.last_error(Ended(-9, "", ""))
    assert "exit code 2" in commands.last_error(Ended(2, "", "Usage: ..."))
