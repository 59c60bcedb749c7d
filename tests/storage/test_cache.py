from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dsr_export.errors import ExportError
from dsr_export.storage import cache_entry
from dsr_export.storage.cache import CachedStage, StageCache, cache_root
from dsr_export.storage.canonical import canonical_bytes, parse_sealed, sealed_bytes
from dsr_export.storage.disk import this_machine
from tests.folders import names

DATA = b"weights" * 100


class Stage:
    """Writes two files and counts how often it was asked to."""

    def __init__(self, data: bytes = DATA) -> None:
        self.runs, self.data = 0, data

    def __call__(self, folder: Path) -> None:
        self.runs += 1
        (folder / "sub").mkdir()
        (folder / "model.onnx").write_bytes(self.data)
        (folder / "sub" / "facts.json").write_bytes(b"{}")


@pytest.fixture
def store(tmp_path: Path) -> StageCache:
    return StageCache(tmp_path / "cache")


def test_a_stage_runs_once_per_key(store: StageCache) -> None:
    stage = Stage()
    first, second = store.run("lower", {"a": 1}, stage), store.run("lower", {"a": 1}, stage)
    assert (first.cached, second.cached, stage.runs) == (False, True, 1)
    assert (first.path, first.digest) == (second.path, second.digest)
    assert (second.path / "model.onnx").read_bytes() == DATA
    assert (second.path / "sub" / "facts.json").read_bytes() == b"{}"
    assert second.seconds >= 0
    assert names(store.root) == ["lower"]


def test_other_keys_and_stages_are_other_entries(store: StageCache) -> None:
    runs: list[tuple[str, dict[str, Any]]] = [
        ("lower", {"a": 1}),
        ("lower", {"a": 2}),
        ("lower", {"a": 1.0}),
        ("lower", {"b": 1}),
        ("type", {"a": 1}),
    ]
    done = [store.run(name, key, Stage()) for name, key in runs]
    assert len({stage.path for stage in done}) == len(runs)
    assert not any(stage.cached for stage in done)


def test_the_order_of_keys_does_not_matter(store: StageCache) -> None:
    store.run("lower", {"a": 1, "b": 2}, Stage())
    assert store.run("lower", {"b": 2, "a": 1}, Stage()).cached


def test_the_digest_is_that_of_the_contents(store: StageCache) -> None:
    same = store.run("lower", {"a": 1}, Stage()).digest
    assert store.run("lower", {"a": 2}, Stage()).digest == same
    assert store.run("lower", {"a": 3}, Stage(b"other")).digest != same


def test_a_key_that_is_no_json_is_refused(store: StageCache) -> None:
    with pytest.raises(ExportError, match=r"\$\.key\.a is of type PosixPath"):
        store.run("lower", {"a": Path("x")}, Stage())


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "A"])
def test_a_stage_name_cannot_leave_the_root(store: StageCache, name: str) -> None:
    with pytest.raises(ExportError, match="no name for a stage"):
        store.run(name, {}, Stage())


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def forge(record: Path, **content: object) -> None:
    """Another record in its place, validly sealed."""
    place = f"{record.parent.parent.name}/{record.parent.name}"
    record.write_bytes(sealed_bytes({"entry": place, "files": {}, **content}))


def forge_without(record: Path, key: str) -> None:
    content = parse_sealed(record.read_bytes(), where=record)
    record.write_bytes(sealed_bytes({name: value for name, value in content.items() if name != key}))


def replace_by_fifo(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "flipped": lambda entry: flip(entry / "model.onnx"),
    "flipped below": lambda entry: flip(entry / "sub" / "facts.json"),
    "truncated": lambda entry: (entry / "model.onnx").write_bytes(DATA[:-1]),
    "empty": lambda entry: (entry / "model.onnx").write_bytes(b""),
    "missing": lambda entry: (entry / "model.onnx").unlink(),
    "extra": lambda entry: (entry / "more").write_bytes(b""),
    "link": lambda entry: (entry / "more").symlink_to("model.onnx"),
    "record flipped": lambda entry: flip(entry / ".stage.json"),
    "record missing": lambda entry: (entry / ".stage.json").unlink(),
    "record empty": lambda entry: (entry / ".stage.json").write_bytes(b""),
    "record of others": lambda entry: forge(entry / ".stage.json"),
    "record without files": lambda entry: forge_without(entry / ".stage.json", "files"),
    "record without its entry": lambda entry: forge_without(entry / ".stage.json", "entry"),
    "record with a list": lambda entry: forge(entry / ".stage.json", files=[]),
    "record of numbers": lambda entry: forge(entry / ".stage.json", files={"model.onnx": 1}),
    "record of wrong types": lambda entry: forge(entry / ".stage.json", files={"model.onnx": {"sha256": 1, "size": 2}}),
    "record a list": lambda entry: (entry / ".stage.json").write_bytes(canonical_bytes([1])),
    "record a pipe": lambda entry: replace_by_fifo(entry / ".stage.json"),
    "record a folder": lambda entry: ((entry / ".stage.json").unlink(), (entry / ".stage.json").mkdir()),
    "a pipe": lambda entry: replace_by_fifo(entry / "more"),
    "a pipe for a file": lambda entry: replace_by_fifo(entry / "model.onnx"),
    "a file for the entry": lambda entry: (shutil.rmtree(entry), entry.write_bytes(b"")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_built_again(store: StageCache, damage: str) -> None:
    stage = Stage()
    first = store.run("lower", {}, stage)
    DAMAGE[damage](first.path)
    second = store.run("lower", {}, stage)
    assert (first.remade, second.cached, second.remade, stage.runs) == (False, False, True, 2)
    assert (second.path / "model.onnx").read_bytes() == DATA
    assert store.run("lower", {}, stage).cached
    assert names(store.root) == ["lower"]
    assert len(names(store.root / "lower")) == 1


def test_entries_that_changed_places_are_built_again(store: StageCache) -> None:
    first, second = Stage(b"first"), Stage(b"second")
    one, two = store.run("lower", {"model": 1}, first).path, store.run("lower", {"model": 2}, second).path
    aside = one.with_name("aside")
    one.rename(aside)
    two.rename(one)
    aside.rename(two)
    assert (store.run("lower", {"model": 1}, first).path / "model.onnx").read_bytes() == b"first"
    assert (store.run("lower", {"model": 2}, second).path / "model.onnx").read_bytes() == b"second"
    assert (first.runs, second.runs) == (2, 2)


def test_an_entry_of_another_stage_is_built_again(store: StageCache) -> None:
    entry = store.run("lower", {}, Stage()).path
    moved = store.root / "type" / store.run("type", {}, Stage(b"typed")).path.name
    shutil.rmtree(moved)
    entry.rename(moved)
    assert (store.run("type", {}, Stage(b"typed")).path / "model.onnx").read_bytes() == b"typed"


def test_a_link_in_the_place_of_an_entry_is_replaced_and_not_followed(store: StageCache, tmp_path: Path) -> None:
    entry = store.run("lower", {}, Stage()).path
    entry.rename(tmp_path / "elsewhere")
    entry.symlink_to(tmp_path / "elsewhere")
    assert not store.run("lower", {}, Stage()).cached
    assert not entry.is_symlink()
    assert (tmp_path / "elsewhere" / "model.onnx").read_bytes() == DATA
    assert names(store.root) == ["lower"]


def test_what_a_hit_checks_by_size_is_found_damaged_when_asked(
    store: StageCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_entry, "LARGEST_HASHED", 10)
    store.run("lower", {}, Stage())
    whole = store.run("lower", {}, Stage())
    assert whole.cached
    assert whole.damaged_file() is None
    flip(whole.path / "model.onnx")
    hit = store.run("lower", {}, Stage())
    assert hit.cached
    assert hit.damaged_file() == hit.path / "model.onnx"
    store.drop(hit)
    assert not store.run("lower", {}, Stage()).cached


def test_large_files_are_checked_by_size(store: StageCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_entry, "LARGEST_HASHED", len(DATA) - 1)
    stage = Stage()
    entry = store.run("lower", {}, stage).path
    recorded = parse_sealed((entry / ".stage.json").read_bytes(), where="r")["files"]["model.onnx"]
    assert recorded["size"] == len(DATA)
    assert len(recorded["sha256"]) == 64
    (entry / "model.onnx").write_bytes(DATA[:-1])
    assert not store.run("lower", {}, stage).cached


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ExportError("no"), ValueError("no"), PermissionError("no")])
def test_what_a_stage_raises_passes_and_leaves_nothing(store: StageCache, error: BaseException) -> None:
    def produce(folder: Path) -> None:
        (folder / "half").write_bytes(b"x")
        raise error

    with pytest.raises(type(error)) as caught:
        store.run("lower", {}, produce)
    assert caught.value is error
    assert names(store.root) == ["lower"]
    assert names(store.root / "lower") == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_leaves_nothing_and_names_the_variable(store: StageCache, code: int) -> None:
    def produce(folder: Path) -> None:
        (folder / "half").write_bytes(b"x")
        raise OSError(code, os.strerror(code))

    with pytest.raises(ExportError, match=r"disk full writing .*lower.*: \d+ MB free") as caught:
        store.run("lower", {}, produce)
    assert "DSR_EXPORT_CACHE" in str(caught.value.hint)
    assert names(store.root / "lower") == []


def test_a_disk_that_fills_up_with_the_record_leaves_nothing(
    store: StageCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(cache_entry, "write_durably", full)
    with pytest.raises(ExportError, match="disk full"):
        store.run("lower", {}, Stage())
    assert names(store.root) == ["lower"]
    assert names(store.root / "lower") == []


def test_an_unwritable_root_names_the_variable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="cannot write") as caught:
        StageCache(tmp_path / "file" / "cache").run("lower", {}, Stage())
    assert "DSR_EXPORT_CACHE" in str(caught.value.hint)


def test_a_stage_that_makes_a_link_is_refused(store: StageCache) -> None:
    with pytest.raises(ExportError, match="is a link"):
        store.run("lower", {}, lambda folder: (folder / "x").symlink_to("/etc/passwd"))
    assert names(store.root / "lower") == []


def test_the_loser_of_a_race_takes_the_winners_entry(store: StageCache) -> None:
    winner = Stage(b"winner")

    def slow(folder: Path) -> None:
        store.run("lower", {}, winner)  # another build finishes first
        (folder / "model.onnx").write_bytes(b"loser")

    done = store.run("lower", {}, slow)
    assert (done.path / "model.onnx").read_bytes() == b"winner"
    assert done.digest == store.run("lower", {}, winner).digest
    assert winner.runs == 1
    assert names(store.root) == ["lower"]


def test_the_loser_replaces_a_damaged_winner(store: StageCache) -> None:
    def slow(folder: Path) -> None:
        flip(store.run("lower", {}, Stage(b"winner")).path / "model.onnx")
        (folder / "model.onnx").write_bytes(b"loser")

    assert (store.run("lower", {}, slow).path / "model.onnx").read_bytes() == b"loser"
    assert names(store.root) == ["lower"]


def test_many_threads_agree(store: StageCache) -> None:
    barrier, done = threading.Barrier(4), []

    def work() -> None:
        barrier.wait()
        done.append(store.run("lower", {}, Stage()))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({(stage.path, stage.digest) for stage in done}) == 1
    assert len(done) == 4
    assert names(store.root) == ["lower"]


def test_what_killed_builds_left_is_removed(store: StageCache) -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", ""])
    child.wait()
    hour_old = [
        f".{'0' * 16}.{host}.{pid}.{'0' * 8}.tmp"
        for host, pid in [(this_machine(), child.pid), (this_machine(), os.getpid()), ("0" * 8, child.pid)]
    ]
    for name in hour_old:
        (store.root / name).mkdir(parents=True)
    store.run("lower", {}, Stage())
    assert names(store.root) == sorted([*hour_old[1:], "lower"])


def test_a_killed_build_leaves_no_entry(store: StageCache) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from dsr_export.storage.cache import StageCache\n"
        "def produce(folder):\n (folder / 'half').write_bytes(b'x'); os.kill(os.getpid(), signal.SIGKILL)\n"
        "StageCache(Path(sys.argv[1])).run('lower', {}, produce)"
    )
    subprocess.run([sys.executable, "-c", code, str(store.root)], check=False)
    assert len(names(store.root)) == 2  # the stage's folder and the leftover
    assert not store.run("lower", {}, Stage()).cached
    assert names(store.root) == ["lower"]


def aged(store: StageCache, key: int, seconds: float) -> CachedStage:
    done = store.run("lower", {"key": key}, Stage())
    then = time.time() - seconds
    os.utime(done.path, (then, then))
    return done


def test_pruning_drops_what_was_used_longest_ago(store: StageCache) -> None:
    old, middle, new = (aged(store, key, age) for key, age in enumerate([9000, 8000, 7000]))
    size = cache_entry.entry_size(old.path)
    assert store.prune(10 * size) == 0
    assert store.run("lower", {"key": 0}, Stage()).cached  # a hit makes the oldest the newest
    assert store.prune(2 * size) == size
    assert [stage.path.exists() for stage in (old, middle, new)] == [True, False, True]
    assert names(store.root) == ["lower"]


def test_pruning_keeps_what_a_build_may_be_reading(store: StageCache) -> None:
    old, new = aged(store, 0, 9000), aged(store, 1, 10)
    store.prune(0)
    assert [old.path.exists(), new.path.exists()] == [False, True]
    store.prune(0, unused_for=-1)
    assert not new.path.exists()


def test_pruning_leaves_what_is_not_the_caches_own(store: StageCache, tmp_path: Path) -> None:
    """The cache may be pointed at a folder that holds other things, whatever their names."""
    key = "0" * 64
    strangers = [store.root / "photos" / "holiday", store.root / "lower" / "mine", store.root / "lower" / key]
    for folder in strangers:
        folder.mkdir(parents=True)
        (folder / "picture.raw").write_bytes(DATA * 1000)
    (tmp_path / "disk").mkdir()
    (store.root / "type").symlink_to(tmp_path / "disk")
    outside = StageCache(tmp_path / "other").run("type", {}, Stage()).path
    outside.rename(tmp_path / "disk" / outside.name)
    (store.root / "audit").mkdir()
    (store.root / "audit" / outside.name).symlink_to(tmp_path / "disk" / outside.name)
    for folder in [*strangers, tmp_path / "disk" / outside.name]:
        os.utime(folder, (0, 0))
    old = aged(store, 0, 9000)
    size = cache_entry.entry_size(old.path)
    assert store.prune(0) == size
    assert not old.path.exists()
    assert all((folder / "picture.raw").exists() for folder in strangers)
    assert (tmp_path / "disk" / outside.name / "model.onnx").exists()
    assert (store.root / "audit" / outside.name).is_symlink()


def test_a_run_prunes(store: StageCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StageCache.prune, "__defaults__", (0,))
    old = aged(store, 0, 9000)
    store.run("lower", {"key": 1}, Stage())
    assert not old.path.exists()


def test_pruning_an_absent_cache_is_nothing(store: StageCache) -> None:
    assert store.prune(0) == 0
    assert not store.root.exists()


def test_the_root_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("DSR_EXPORT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "")
    assert cache_root() == tmp_path / ".cache" / "dsr-export"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    assert cache_root() == tmp_path / ".cache" / "dsr-export"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_root() == Path("/xdg/dsr-export")
    monkeypatch.setenv("DSR_EXPORT_CACHE", "~/mine")
    assert cache_root() == tmp_path / "mine"
    assert StageCache.default() == StageCache(tmp_path / "mine")


def test_no_home_is_a_readable_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("DSR_EXPORT_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(ExportError, match="no folder for the cache") as caught:
        cache_root()
    assert "DSR_EXPORT_CACHE" in str(caught.value.hint)
