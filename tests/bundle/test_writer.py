from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dsr_export.bundle.manifest import Manifest
from dsr_export.bundle.reader import Bundle
from dsr_export.bundle.writer import check_destination, write_bundle
from dsr_export.errors import ExportError
from dsr_export.storage import disk
from tests.folders import names

Contents = dict[str, Path | bytes]
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def dead_pid() -> int:
    """The id of a process that has just ended."""
    child = subprocess.Popen([sys.executable, "-S", "-c", ""])
    child.wait()
    return child.pid


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_bundle_holds_the_contents_and_a_manifest(tmp_path: Path, manifest: Manifest, contents: Contents) -> None:
    out = write_bundle(tmp_path / "new" / "digits.dsr", manifest, contents)
    held = snapshot(out)
    assert held.pop("manifest.json") == Bundle.open(out).manifest.to_bytes()
    assert held == contents
    assert names(out.parent) == ["digits.dsr"]


def test_contents_are_copied_from_files(tmp_path: Path, manifest: Manifest, contents: Contents) -> None:
    source = tmp_path / "weights"
    source.write_bytes(contents["model.onnx.data"])  # type: ignore[arg-type]
    out = write_bundle(tmp_path / "b.dsr", manifest, {**contents, "model.onnx.data": source})
    assert (out / "model.onnx.data").read_bytes() == source.read_bytes()
    assert not (out / "model.onnx.data").samefile(source)  # a change to the cache must not reach the bundle


def test_equal_inputs_give_equal_bytes(tmp_path: Path, manifest: Manifest, contents: Contents) -> None:
    first = write_bundle(tmp_path / "a.dsr", manifest, contents)
    second = write_bundle(tmp_path / "b.dsr", manifest, dict(reversed(contents.items())))
    assert snapshot(first) == snapshot(second)


def test_a_relative_path_is_relative_to_the_working_folder(
    tmp_path: Path, manifest: Manifest, contents: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert write_bundle(Path("b.dsr"), manifest, contents) == Path("b.dsr")
    assert names(tmp_path) == ["b.dsr"]


def test_destinations(tmp_path: Path, bundle: Path, manifest: Manifest) -> None:
    assert check_destination(tmp_path / "free", "k", False) == "new"
    assert check_destination(tmp_path / "not" / "yet" / "there", "k", False) == "new"
    assert names(tmp_path) == ["digits.dsr"]  # asking changes nothing
    assert check_destination(bundle, manifest.build_key, False) == "same"
    assert check_destination(bundle, manifest.build_key, True) == "replace"
    assert check_destination(bundle, "other", True) == "replace"


def test_another_bundle_needs_force(bundle: Path) -> None:
    with pytest.raises(ExportError, match="holds a bundle of other inputs or options") as caught:
        check_destination(bundle, "b" * 64, False)
    assert "--force" in str(caught.value.hint)


@pytest.mark.parametrize("held", [None, "notes.txt", "manifest.json"])
def test_a_folder_that_is_no_bundle_needs_force(tmp_path: Path, held: str | None) -> None:
    out = tmp_path / "photos"
    out.mkdir()
    if held:
        (out / held).write_text("{}")
    with pytest.raises(ExportError, match="exists and is no bundle") as caught:
        check_destination(out, "k", False)
    assert "--force" in str(caught.value.hint)
    assert check_destination(out, "k", True) == "replace"


@pytest.mark.parametrize("force", [False, True])
def test_files_and_links_are_never_replaced(tmp_path: Path, bundle: Path, force: bool) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(bundle)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name, problem in {"file": "is a file", "link": "is a link", "dangling": "is a link"}.items():
        with pytest.raises(ExportError, match=problem):
            check_destination(tmp_path / name, "k", force)
    with pytest.raises(ExportError, match="file is a file"):
        check_destination(tmp_path / "file" / "b.dsr", "k", force)
    assert (tmp_path / "file").read_text() == "mine"


def test_force_does_not_replace_a_folder_around_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home" / "me").mkdir(parents=True)
    (tmp_path / "work" / "deep").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home" / "me"))
    monkeypatch.chdir(tmp_path / "work" / "deep")
    for out in (tmp_path / "home", tmp_path / "home" / "me", tmp_path / "work", Path(), Path("..")):
        with pytest.raises(ExportError, match="is not replaced"):
            check_destination(out, "k", True)


@pytest.mark.parametrize("name", ["a\0b", "x" * 201, "/"])
def test_impossible_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ExportError, match=r"NUL|bad folder name"):
        check_destination(tmp_path / name, "k", False)


def test_an_unwritable_place_is_refused_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # tests may run as root
    with pytest.raises(ExportError, match="no permission to write in") as caught:
        check_destination(tmp_path / "b.dsr", "k", False)
    assert "--out" in str(caught.value.hint)


def test_force_swaps_the_bundles(tmp_path: Path, bundle: Path, manifest: Manifest, contents: Contents) -> None:
    changed = replace(manifest, build_key="b" * 64)
    with pytest.raises(ExportError, match="other inputs"):
        write_bundle(bundle, changed, contents)
    assert Bundle.open(bundle).manifest.build_key == manifest.build_key
    write_bundle(bundle, changed, contents, force=True)
    assert Bundle.open(bundle).manifest.build_key == "b" * 64
    assert names(tmp_path) == ["digits.dsr"]


@pytest.mark.parametrize("error", [OSError(errno.EIO, "I/O error"), KeyboardInterrupt()])
def test_a_failed_swap_restores_the_old_bundle(
    tmp_path: Path,
    bundle: Path,
    manifest: Manifest,
    contents: Contents,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    rename, before = Path.rename, snapshot(bundle)

    def failing(self: Path, target: Path) -> Path:
        if self.name.endswith(".tmp"):
            raise error
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises((ExportError, KeyboardInterrupt)):
        write_bundle(bundle, replace(manifest, build_key="b" * 64), contents, force=True)
    assert snapshot(bundle) == before
    assert names(tmp_path) == ["digits.dsr"]


def test_a_folder_that_appeared_meanwhile_is_not_replaced(
    tmp_path: Path, manifest: Manifest, contents: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "b.dsr"

    def put_beside(*_: object) -> None:
        out.mkdir()
        (out / "mine").write_text("mine")

    monkeypatch.setattr("dsr_export.bundle.writer._check_space", put_beside)
    with pytest.raises(ExportError, match="cannot write"):
        write_bundle(out, manifest, contents)
    assert snapshot(out) == {"mine": b"mine"}
    assert names(tmp_path) == ["b.dsr"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_leaves_nothing_and_says_so(
    tmp_path: Path, manifest: Manifest, contents: Contents, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    written: list[Path] = []

    def full(data: bytes, target: Path) -> tuple[str, int]:
        if len(written) == 2:
            raise OSError(code, os.strerror(code))
        written.append(target)
        return disk.write_durably(data, target)

    monkeypatch.setattr("dsr_export.bundle.writer.write_durably", full)
    with pytest.raises(ExportError, match=r"disk full writing .*b\.dsr: needs 1 MB, \d+ MB free") as caught:
        write_bundle(tmp_path / "b.dsr", manifest, contents)
    assert "--out" in str(caught.value.hint)
    assert len(written) == 2
    assert names(tmp_path) == []


def test_too_little_space_is_found_before_copying(
    tmp_path: Path, manifest: Manifest, contents: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dsr_export.storage.disk.shutil.disk_usage", lambda _: Usage(0, 0, 1_000_000))
    monkeypatch.setattr("dsr_export.bundle.writer._fill", lambda *_: pytest.fail("it began to copy"))
    with pytest.raises(ExportError, match="needs 1 MB, 1 MB free"):
        write_bundle(tmp_path / "b.dsr", manifest, contents)
    assert names(tmp_path) == []


@pytest.mark.parametrize("at", ["dsr_export.bundle.writer.write_durably", "dsr_export.bundle.writer.flush_path"])
def test_an_interrupt_leaves_nothing(
    tmp_path: Path, manifest: Manifest, contents: Contents, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    def interrupt(*_: object) -> None:
        assert any(path.suffix == ".tmp" for path in tmp_path.iterdir())
        raise KeyboardInterrupt

    monkeypatch.setattr(at, interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_bundle(tmp_path / "b.dsr", manifest, contents)
    assert names(tmp_path) == []


def test_a_manifest_that_readers_refuse_is_never_shipped(
    tmp_path: Path, manifest: Manifest, contents: Contents
) -> None:
    with pytest.raises(ExportError, match=r"manifest\.json\.precision is 'fp7'"):
        write_bundle(tmp_path / "b.dsr", replace(manifest, precision="fp7"), contents)  # type: ignore[arg-type]
    del contents["engines/rtx.plan"]
    with pytest.raises(ExportError, match="expected null or a listed file under engines/"):
        write_bundle(tmp_path / "b.dsr", manifest, contents)
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["../x", "/x", "manifest.json", "a\\b"])
def test_unsafe_content_names_are_refused(tmp_path: Path, manifest: Manifest, contents: Contents, name: str) -> None:
    with pytest.raises(ExportError, match="the plan for"):
        write_bundle(tmp_path / "b.dsr", manifest, {**contents, name: b""})
    assert names(tmp_path) == []


def test_a_missing_source_is_named(tmp_path: Path, manifest: Manifest, contents: Contents) -> None:
    with pytest.raises(ExportError, match="gone.plan, which goes into the bundle as engines/rtx.plan, is no file"):
        write_bundle(tmp_path / "b.dsr", manifest, {**contents, "engines/rtx.plan": tmp_path / "gone.plan"})
    assert names(tmp_path) == []


def test_what_killed_builds_left_is_removed(
    tmp_path: Path, manifest: Manifest, contents: Contents, dead_pid: int
) -> None:
    kept = [f".b.dsr.{os.getppid()}.tmp", f".other.dsr.{dead_pid}.tmp", ".b.dsr.x.tmp"]
    for name in [*kept, f".b.dsr.{dead_pid}.tmp", f".b.dsr.{os.getpid()}.tmp"]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.onnx").write_bytes(b"half")
    write_bundle(tmp_path / "b.dsr", manifest, contents)
    assert names(tmp_path) == sorted([*kept, "b.dsr"])


def test_a_bundle_that_was_moved_aside_by_a_killed_build_comes_back(bundle: Path, dead_pid: int) -> None:
    before, old = snapshot(bundle), bundle.with_name(f".{bundle.name}.{dead_pid}.old")
    bundle.rename(old)
    assert check_destination(bundle, "a" * 64, False) == "same"
    assert snapshot(bundle) == before
    assert names(bundle.parent) == [bundle.name]


def test_a_replaced_bundle_that_a_killed_build_left_is_removed(bundle: Path, dead_pid: int) -> None:
    old = bundle.with_name(f".{bundle.name}.{dead_pid}.old")
    old.mkdir()
    before: dict[str, Any] = snapshot(bundle)
    check_destination(bundle, "a" * 64, False)
    assert names(bundle.parent) == [bundle.name]
    assert snapshot(bundle) == before
