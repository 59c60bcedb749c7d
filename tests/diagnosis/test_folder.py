from __future__ import annotations

import json
from pathlib import Path

import pytest

import dsr_export.bundle.result_folder as folder_module
from dsr_export.diagnosis.folder import RECORD, check_folder, write_folder
from dsr_export.diagnosis.record import KIND
from dsr_export.errors import ExportError
from tests.folders import names

CONTENTS = {RECORD: json.dumps({"kind": KIND}), "index.html": "<p>"}


def test_an_earlier_diagnosis_is_replaced_whole(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "m.diagnosis"
    write_folder(out, {**CONTENTS, "dsr.toml": "old"}, force=False)
    write_folder(out, CONTENTS, force=False)
    assert names(out) == sorted(CONTENTS)
    assert names(out.parent) == ["m.diagnosis"]


@pytest.mark.parametrize("name", ["notes.txt", "index.html"])
def test_a_folder_of_something_else_needs_force(name: str, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / name).write_text("mine")
    with pytest.raises(ExportError, match="no diagnosis"):
        check_folder(out, force=False)
    write_folder(out, CONTENTS, force=True)
    assert names(out) == sorted(CONTENTS)


def test_a_diagnosis_with_the_users_notes_in_it_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "d"
    write_folder(out, CONTENTS, force=False)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match="other files"):
        write_folder(out, CONTENTS, force=False)
    assert (out / "notes.txt").read_text() == "mine"


def test_an_empty_folder_is_no_loss(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    write_folder(tmp_path / "d", CONTENTS, force=False)
    assert names(tmp_path / "d") == sorted(CONTENTS)


def test_files_and_links_are_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for name in ("file", "link"):
        with pytest.raises(ExportError, match="is no folder"):
            check_folder(tmp_path / name, force=True)


def test_the_working_folder_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ExportError, match="is not replaced"):
        check_folder(tmp_path, force=True)


def test_a_failed_write_leaves_the_old_one_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "d"
    write_folder(out, {**CONTENTS, "dsr.toml": "old"}, force=False)

    def fail(data: bytes, target: Path) -> tuple[str, int]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder_module, "write_durably", fail)
    with pytest.raises(ExportError, match="disk full"):
        write_folder(out, CONTENTS, force=False)
    assert names(tmp_path) == ["d"]
    assert (out / "dsr.toml").read_text() == "old"
