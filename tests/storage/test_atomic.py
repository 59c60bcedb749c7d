"""Outputs appear whole or not at all, and replace nothing but files: devices and pipes get the bytes."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dsr_export.backends.named_arrays import save_arrays
from dsr_export.errors import ExportError
from dsr_export.images.grids import save_grid
from dsr_export.storage import output_target
from dsr_export.storage.atomic import atomic_file
from dsr_export.storage.output_target import check_target
from tests.device_nodes import device_node


def _write(path: Path) -> None:
    with atomic_file(path) as temporary:
        temporary.write_bytes(b"made")


def _write_arrays(path: Path) -> None:
    save_arrays(path, {"x": np.zeros(3)})


def _write_grid(path: Path) -> None:
    save_grid(np.zeros((1, 1, 8, 8), np.float32), path)


@pytest.mark.parametrize("write", [_write, _write_arrays, _write_grid])
@pytest.mark.parametrize("linked", [False, True])
def test_a_device_is_written_to_and_stays(write: Callable[[Path], None], linked: bool, tmp_path: Path) -> None:
    node = device_node(tmp_path / "null", "null")
    path = tmp_path / "out"
    path.symlink_to(node) if linked else node.rename(path)
    before = sorted(tmp_path.iterdir())
    write(path)
    assert stat.S_ISCHR(path.stat().st_mode)
    assert path.is_symlink() == linked
    assert sorted(tmp_path.iterdir()) == before


def test_a_full_device_is_an_error_and_stays(tmp_path: Path) -> None:
    node = device_node(tmp_path / "full", "full")
    with pytest.raises(ExportError, match="No space left"):
        _write(node)
    assert stat.S_ISCHR(node.stat().st_mode)


def test_a_pipe_gets_the_bytes_and_stays(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    _write_grid(pipe)
    reader.join(10)
    _write_grid(tmp_path / "file")
    assert read == [(tmp_path / "file").read_bytes()]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_pipe_that_nobody_reads_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_target, "READER_PATIENCE", 0.05)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ExportError, match="nobody reads"):
        _write(tmp_path / "pipe")


def test_what_can_be_neither_replaced_nor_written_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "loop").symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as opened:
        here = os.open(tmp_path, os.O_RDONLY)
        opened.bind(f"/proc/self/fd/{here}/socket")  # a socket's own path may have no more than 108 characters
        os.close(here)
    names = ["folder", "link", "loop", "socket", "missing/x", "file/x", "n" * 300]
    before = sorted(tmp_path.iterdir())
    for name in names:
        with pytest.raises(ExportError, match="can't write"):
            check_target(tmp_path / name)
        with pytest.raises(ExportError, match="can't write"):
            _write(tmp_path / name)
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "socket").is_socket()


def test_a_block_device_is_refused(tmp_path: Path) -> None:
    node = device_node(tmp_path / "disk", "disk")
    with pytest.raises(ExportError, match="it is a block device"):
        _write(node)
    assert node.is_block_device()


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_one_and_names_what_was_written(exists: bool, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("folder/file")
    (tmp_path / "folder").mkdir()
    if exists:
        (tmp_path / "folder" / "file").write_bytes(b"old")
    _write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "folder" / "file").read_bytes() == b"made"
    assert len(list(tmp_path.rglob("*"))) == 3


@pytest.mark.parametrize("form", ["/dev/fd/{}", "/proc/self/fd/{}", "/dev/../proc/self/fd/{}"])
def test_a_descriptor_is_written_to(form: str) -> None:
    reader, writer = os.pipe()
    _write(Path(form.format(writer)))
    os.close(writer)
    assert os.read(reader, 100) == b"made"
    os.close(reader)


def test_what_goes_to_stdout_goes_where_the_answers_go() -> None:
    reader, writer = os.pipe()
    output_target.set_stdout(writer)
    try:
        _write(Path("/dev/stdout"))
    finally:
        output_target.set_stdout(1)
    os.close(writer)
    assert os.read(reader, 100) == b"made"
    os.close(reader)


def test_a_name_as_long_as_names_may_be_is_written(tmp_path: Path) -> None:
    _write(tmp_path / ("n" * 255))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"made"]


def test_a_failure_within_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")

    def fail() -> None:
        with atomic_file(tmp_path / "file") as temporary:
            temporary.write_bytes(b"half")
            raise ValueError

    with pytest.raises(ValueError):
        fail()
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]
