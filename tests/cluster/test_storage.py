"""Files and records that machines share: whole, and what they are said to be."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dsr_export.cluster.storage import Damaged, Storage
from dsr_export.errors import ExportError


@pytest.fixture(params=["path", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """On a disk, and as an object store."""
    return Storage(str(tmp_path / "s") if request.param == "path" else f"memory://{tmp_path.name}")


def test_a_folder_comes_back_as_it_was(storage: Storage, tmp_path: Path) -> None:
    made = tmp_path / "made"
    (made / "deep").mkdir(parents=True)
    (made / "a").write_bytes(b"same")
    (made / "deep" / "b").write_bytes(b"same")
    (made / "deep" / "empty").write_bytes(b"")
    files = storage.put_folder(made)
    assert files["a"] == files["deep/b"] != files["deep/empty"]
    back = tmp_path / "back"
    back.mkdir()
    (back / "old").write_bytes(b"goes")
    storage.get_folder(files, back)
    found = {path.relative_to(back).as_posix(): path.read_bytes() for path in back.rglob("*") if path.is_file()}
    assert found == {"a": b"same", "deep/b": b"same", "deep/empty": b""}
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".tmp"]


def test_a_damaged_object_is_named_and_replaces_nothing(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "s"))
    (tmp_path / "a").write_bytes(b"right")
    digest = storage.put(tmp_path / "a")
    (tmp_path / "s" / "objects" / digest[:2] / digest).write_bytes(b"wrong")
    back = tmp_path / "back"
    back.mkdir()
    (back / "old").write_bytes(b"stays")
    with pytest.raises(ExportError, match="is damaged"):
        storage.get_folder({"a": digest}, back)
    assert [path.name for path in back.iterdir()] == ["old"]
    with pytest.raises(Damaged, match="is missing"):  # else it could never be written again
        storage.get_folder({"a": digest}, back)
    storage.put(tmp_path / "a")
    storage.get_folder({"a": digest}, back)
    assert (back / "a").read_bytes() == b"right"


def test_an_object_or_record_that_became_a_folder_is_made_again(storage: Storage, tmp_path: Path) -> None:
    """By its name, not as a fault of where it is to be written."""
    (tmp_path / "a").write_bytes(b"right")
    digest, files = storage.put(tmp_path / "a"), storage._files
    storage.put_record("run/one", {"exit_code": 0})
    for place in (f"objects/{digest[:2]}/{digest}", "records/run/one.json"):
        files.rm(f"{storage._root}/{place}")
        files.pipe_file(f"{storage._root}/{place}/deep", b"x")
    with pytest.raises(Damaged, match="is damaged"):
        storage.get_folder({"a": digest}, tmp_path / "back")
    assert storage.record("run/one") is None
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".tmp" or path.name == "back"]
    storage.put(tmp_path / "a")
    storage.get_folder({"a": digest}, tmp_path / "back")
    storage.put_record("run/one", {"exit_code": 3})
    assert (tmp_path / "back" / "a").read_bytes() == b"right" and storage.record("run/one") == {"exit_code": 3}


_KILLED = """
import os, pathlib, signal, sys
from dsr_export.cluster import storage
storage.files_digest = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # in the middle of either
if sys.argv[1] == "get":
    storage.Storage("s").get_folder({"a": sys.argv[2]}, pathlib.Path("bundles/x.dsr"))
made = storage.Storage("s")
made._files.mv = storage.files_digest
made._put_bytes(f"{made._root}/objects/{sys.argv[2][:2]}/{sys.argv[2]}", b"half")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="processes cannot be asked for there")
@pytest.mark.parametrize("what", ["get", "put"])
def test_what_a_killed_process_left_half_goes_with_the_next(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").write_bytes(b"whole")
    digest = Storage("s").put(tmp_path / "a")
    killed = subprocess.run([sys.executable, "-c", _KILLED, what, digest], check=False, cwd=tmp_path)
    left = [path for path in tmp_path.rglob("*") if path.name.startswith(".")]
    assert killed.returncode == -signal.SIGKILL and left
    (tmp_path / "s" / "objects" / digest[:2] / digest).unlink()
    Storage("s").put(tmp_path / "a")
    Storage("s").get_folder({"a": digest}, tmp_path / "bundles" / "y.dsr")  # another one
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]
    assert (tmp_path / "bundles" / "y.dsr" / "a").read_bytes() == b"whole"


def test_a_path_means_the_same_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("relative", "a::b"):
        Storage(name).put_record("r", {"x": 1})
        assert (tmp_path / name / "records" / "r.json").is_file()
    shared = Storage("relative").url
    monkeypatch.chdir("/")
    assert Storage(shared).record("r") == {"x": 1}


def test_a_record_that_names_a_file_elsewhere_is_refused(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "s"))
    (tmp_path / "a").write_bytes(b"x")
    with pytest.raises(ExportError, match="names the file"):
        storage.get_folder({"../out": storage.put(tmp_path / "a")}, tmp_path / "back")
    assert not (tmp_path / "out").exists() and not (tmp_path / "back").exists()


def test_records_are_whole_or_not_there(storage: Storage, tmp_path: Path) -> None:
    assert storage.record("run/one") is None
    storage.put_record("run/one", {"exit_code": 0})
    storage.put_record("run/one", {"exit_code": 3})
    assert storage.record("run/one") == {"exit_code": 3}
    disk = Storage(str(tmp_path / "d"))
    disk.put_record("run/one", {"exit_code": 0})
    file = tmp_path / "d" / "records" / "run" / "one.json"
    for broken in (b"", file.read_bytes()[:-3], b"{}"):
        file.write_bytes(broken)
        assert disk.record("run/one") is None


@pytest.mark.parametrize("url", ["no-such-scheme://bucket/x", "/proc/none/storage"])
def test_a_storage_that_cannot_be_used_is_named(url: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    with pytest.raises(ExportError, match="storage") as caught:
        Storage(url).put(tmp_path / "a")
    assert url in caught.value.message and caught.value.hint
