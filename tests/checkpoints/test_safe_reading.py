"""What a file is, is told by its content; what is no checkpoint is named, with what to do about it."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dsr_export.checkpoints import read_state_dict
from dsr_export.errors import ExportError

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "a.bin", "a"])
def test_safetensors_and_torch_files_may_have_any_name(tmp_path: Path, name: str) -> None:
    save_file(STATE, tmp_path / name)
    assert torch.equal(read_state_dict(tmp_path / name)["a.weight"], STATE["a.weight"])
    for zipped in (True, False):
        torch.save({"state_dict": STATE}, tmp_path / name, _use_new_zipfile_serialization=zipped)
        assert torch.equal(read_state_dict(tmp_path / name)["a.weight"], STATE["a.weight"])


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer", "git lfs pull"),
        (b"GGUF\x03\x00\x00\x00" + bytes(64), "a GGUF file", "safetensors"),
        (b"\x89HDF\r\n\x1a\n" + bytes(64), "an HDF5 file", "state_dict"),
        (b"\x1f\x8b\x08" + bytes(64), "gzip-compressed", "unpack"),
        (b"<!DOCTYPE html><html>login</html>", "a web page", "download"),
    ],
)
@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_files_of_other_kinds_are_named(tmp_path: Path, content: bytes, message: str, hint: str, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ExportError, match=message) as caught:
        read_state_dict(tmp_path / name)
    assert hint in str(caught.value.hint)


def test_archives_of_other_kinds_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", w=np.ones(2))
    with pytest.raises(ExportError, match="a NumPy archive"):
        read_state_dict(tmp_path / "a.npz")
    save_file(STATE, tmp_path / "inner.safetensors")
    with tarfile.open(tmp_path / "a.pth.tar", "w") as archive:
        archive.add(tmp_path / "inner.safetensors", "inner.safetensors")
    with pytest.raises(ExportError, match="is a tar archive") as caught:
        read_state_dict(tmp_path / "a.pth.tar")
    assert "unpack" in str(caught.value.hint)


@pytest.mark.filterwarnings("ignore")
def test_a_torchscript_archive_is_named(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "a.pt")  # type: ignore[no-untyped-call]
    with pytest.raises(ExportError, match="is a TorchScript archive"):
        read_state_dict(tmp_path / "a.pt")


def _endless() -> dict[str, Any]:
    content: dict[str, Any] = {"model": STATE}
    content["self"] = content
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_endless(), "nested without end"),
        ({"w": torch.zeros(1, 1).expand(2**14, 2**14)}, "'w' repeats few values to 1073741824 bytes"),
        ({"w": torch.nested.nested_tensor([torch.ones(1), torch.ones(2)], layout=torch.jagged)}, "'w' is not a plain"),
        ({"w": torch.empty(2, device="meta")}, "'w' is not a plain dense tensor"),
        ({"a": {"b.c": torch.ones(1)}, "a.b": {"c": torch.ones(1)}}, "two tensors called 'a.b.c'"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_no_trainer_writes_is_refused(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ExportError, match=f"{message}|refused"):
        read_state_dict(tmp_path / "a.pt")
