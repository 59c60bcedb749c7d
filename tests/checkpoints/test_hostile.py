"""Checkpoints that are made to hang, to fill memory, or to be read as something else."""

from __future__ import annotations

import json
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dsr_export.checkpoints import read_state_dict
from dsr_export.errors import ExportError


def _unfolding() -> Any:
    """Eight levels of a hundred references each: 10**16 entries."""
    content: dict[str, Any] = {f"{i}": torch.ones(1) for i in range(100)}
    for _ in range(7):
        content = dict.fromkeys([f"{i}" for i in range(100)], content)
    return content


def _held_by_each_other() -> Any:
    one: dict[str, Any] = {"w": torch.ones(1)}
    one["ema"] = {"ema": one}
    return one


def _many_views() -> Any:
    return {f"{i}": torch.zeros(1).expand(2**22) for i in range(64)}  # 16 MB each, 1 GB in all, from 256 bytes


CONTENTS: dict[str, tuple[Callable[[], Any], str]] = {
    "mappings that unfold": (_unfolding, "unfolds to more than"),
    "mappings in each other": (_held_by_each_other, "nested without end"),
    "a list that is shared": (
        lambda: dict.fromkeys([f"{i}" for i in range(2000)], [torch.ones(1)] * 2000),
        "unfolds to more than",
    ),
    "views of nothing": (_many_views, "its tensors claim"),
    "a view of nothing": (lambda: {"w": torch.zeros(1).expand(10**9)}, "repeats few values"),
    "too many axes": (lambda: {"w": torch.ones([1] * 40)}, "has 40 axes"),
    "sparse": (lambda: {"w": torch.eye(3).to_sparse()}, "not a plain dense tensor|refused"),
    "quantised": (lambda: {"w": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}, "not a plain|refused"),
    "on no device": (lambda: {"w": torch.empty(10**12, device="meta")}, "not a plain dense tensor"),
    "a sparse list": (lambda: {"w": torch.ones(1), "shadow_params": [torch.eye(3).to_sparse()]}, "not a plain|refused"),
    "a bytearray": (lambda: {"w": torch.ones(1), "b": bytearray(5)}, "holds a bytearray"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", CONTENTS)
def test_what_unfolds_or_is_no_weight_is_refused(tmp_path: Path, kind: str, zipped: bool) -> None:
    make, said = CONTENTS[kind]
    torch.save(make(), tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ExportError, match=said) as caught:
        read_state_dict(tmp_path / "a.pt")
    assert len(caught.value.message) < 600


def _repacked(path: Path, packing: int, change: Callable[[dict[str, bytes]], None] = lambda _: None) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    change(members)
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def test_compressed_members_are_never_taken_for_weights(tmp_path: Path) -> None:
    torch.save({"w": torch.arange(4096.0)}, tmp_path / "a.pt")
    for packing in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        _repacked(tmp_path / "a.pt", packing)
        with pytest.raises(ExportError, match="is compressed"):
            read_state_dict(tmp_path / "a.pt")


def _second_directory(data: bytes) -> bytes:
    """Python finds the directory by its size, in front of the end record; torch by its offset."""
    end = len(data) - 22
    size, start = struct.unpack_from("<LL", data, end + 12)
    return data[:end] + data[start : start + size] + data[end:]


@pytest.mark.parametrize(
    "changed",
    [
        _second_directory,
        lambda data: b"PK\3\4" + data,  # something in front
        lambda data: data + data[-22:],  # a second end
        lambda data: data[:-2] + b"\x04\0note",
    ],
)
def test_an_archive_of_two_readings_is_refused(tmp_path: Path, changed: Callable[[bytes], bytes]) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "a.pt")
    (tmp_path / "a.pt").write_bytes(changed((tmp_path / "a.pt").read_bytes()))
    with pytest.raises(ExportError, match="is no readable PyTorch checkpoint|refused"):
        read_state_dict(tmp_path / "a.pt")


def test_keys_that_are_no_names_are_no_weights(tmp_path: Path) -> None:
    key: Any = "w"
    for _ in range(3000):
        key = (key,)
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)  # to write it
    try:
        torch.save({key: torch.ones(2), "v": torch.ones(1)}, tmp_path / "a.pt")
    finally:
        sys.setrecursionlimit(before)
    assert set(read_state_dict(tmp_path / "a.pt")) == {"v"}


def test_a_pickle_of_unreasonable_size_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "a.pt")
    assert read_state_dict(tmp_path / "a.pt")["w"].tolist() == [1, 1]
    monkeypatch.setattr("dsr_export.checkpoints.torch_zip.LARGEST_PICKLE", 10)
    with pytest.raises(ExportError, match="more than any model needs"):
        read_state_dict(tmp_path / "a.pt")


def _safetensors(path: Path, header: bytes, data: bytes = b"") -> None:
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def _entry(dtype: str, shape: list[int], end: int) -> bytes:
    return json.dumps({"w": {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}}).encode()


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (_entry("F4", [2], 1), "no readable safetensors|of a type|not a plain|codes"),
        (_entry("F32", [1] * 1000, 4), "axes|no readable"),
        (_entry("F32", [2**40, 2**40], 4), "no readable safetensors"),
        (_entry("F32", [-1], 4), "no readable safetensors"),
        (_entry("Q7", [1], 4), "no readable safetensors"),
        (b'{"\xff\xfe": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}', "no readable safetensors"),
        (b'{"a":' * 5000, "no readable safetensors"),
        (b"{" + b" " * (17 << 20) + b"}", "a header of 17825794 bytes"),
    ],
    ids=range(8),
)
def test_safetensors_of_impossible_headers(tmp_path: Path, header: bytes, said: str) -> None:
    _safetensors(tmp_path / "a.safetensors", header, bytes(4))
    with pytest.raises(ExportError, match=said) as caught:
        read_state_dict(tmp_path / "a.safetensors")
    assert len(caught.value.message) < 600
