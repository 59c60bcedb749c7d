"""Reading and strictly loading checkpoints: every layout, and every way in which a file can be wrong."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dsr_export.checkpoints import load_into, read_state_dict
from dsr_export.errors import ExportError

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2), "steps": torch.tensor(3)}
OTHER = {name: value + 1 for name, value in STATE.items()}


def _assert_same(found: dict[str, Tensor], expected: dict[str, Tensor] = STATE) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0)


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"step": 1, "epoch": 2, "model": OTHER, "ema": STATE, "optimizer": {"state": {0: torch.ones(1)}}},
        {"model": OTHER, "model_ema1": STATE, "model_ema2": OTHER, "args": argparse.Namespace(lr=1e-4, name="a")},
        {"model": STATE, "ema": None},
        {"model": STATE, "ema": {}},
        {"state_dict": STATE},
        {"ema": {"state_dict": STATE}},
        {f"module.{name}": value for name, value in STATE.items()},
        {f"_orig_mod.module.{name}": value for name, value in STATE.items()},
        {name: nn.Parameter(value) if value.is_floating_point() else value for name, value in STATE.items()},
        {**STATE, "epoch": 7},
    ],
)
def test_layouts(tmp_path: Path, content: dict[str, Any]) -> None:
    torch.save(content, tmp_path / "a.pt")
    _assert_same(read_state_dict(tmp_path / "a.pt"))


def test_safetensors(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "a.safetensors")
    _assert_same(read_state_dict(tmp_path / "a.safetensors"))


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt", ".pth.tar", ""])
def test_pickled_suffixes_and_the_format_before_torch_1_6(tmp_path: Path, suffix: str) -> None:
    torch.save(STATE, tmp_path / f"a{suffix}", _use_new_zipfile_serialization=False)
    _assert_same(read_state_dict(tmp_path / f"a{suffix}"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_become_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    save_file(
        {name: v.to(dtype) if v.is_floating_point() else v for name, v in STATE.items()}, tmp_path / "a.safetensors"
    )
    _assert_same(read_state_dict(tmp_path / "a.safetensors"))


def test_a_prefix_of_some_names_only_is_kept(tmp_path: Path) -> None:
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "a.pt")
    assert read_state_dict(tmp_path / "a.pt").keys() == {"module.a", "b"}


class _Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    content = {"a": torch.ones(1), "b": _Payload(tmp_path / "ran")}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ExportError, match=r"refused.*code") as caught:
        read_state_dict(tmp_path / "a.pt")
    assert "safetensors" in str(caught.value.hint)
    assert not (tmp_path / "ran").exists()


def test_code_in_a_plain_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    calls_mkdir = b"\x80\x02cos\nmkdir\n(V" + bytes(tmp_path / "ran") + b"\ntR."
    (tmp_path / "a.bin").write_bytes(calls_mkdir)
    with pytest.raises(ExportError, match="refused"):
        read_state_dict(tmp_path / "a.bin")
    assert not (tmp_path / "ran").exists()


def _bytes_of(path: Path) -> bytes:
    if path.suffix == ".safetensors":
        save_file(STATE, path)
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=path.suffix == ".pt")
    return path.read_bytes()


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".safetensors"])
@pytest.mark.parametrize("kept", [1, 8, 100, -1, -40])
def test_truncated_files_are_refused(tmp_path: Path, suffix: str, kept: int) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(_bytes_of(path)[:kept])
    with pytest.raises(ExportError, match="no readable"):
        read_state_dict(path)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    "content", [b"hello world\n", b"\x00" * 64, b"\xff" * 64, b"PK\x03\x04garbage", b"\x80\x02}q\x00."]
)
def test_files_of_something_else_are_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(ExportError):
        read_state_dict(path)


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.pt").touch()
    with pytest.raises(ExportError, match="is empty"):
        read_state_dict(tmp_path / "a.pt")


def test_folder(tmp_path: Path) -> None:
    (tmp_path / "a.pt").mkdir()
    with pytest.raises(ExportError, match="not a file"):
        read_state_dict(tmp_path / "a.pt")


def test_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "model_ema.pt").touch()
    with pytest.raises(ExportError, match="no such checkpoint") as caught:
        read_state_dict(tmp_path / "model-ema.pt")
    assert caught.value.hint == "did you mean 'model_ema.pt'?"
    with pytest.raises(ExportError, match="no such checkpoint"):
        read_state_dict(tmp_path / "nowhere" / "a.pt")


@pytest.mark.parametrize("content", [{"x": {"w": torch.ones(1)}}, {}, [torch.ones(1)], torch.ones(1), 3, {"ema": 1}])
def test_files_without_tensors_by_name_are_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ExportError, match="holds no tensors by name"):
        read_state_dict(tmp_path / "a.pt")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e300])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, bad: float) -> None:
    state = {f"w{i}": torch.tensor([1.0, bad], dtype=torch.float64) for i in range(5)} | {"fine": torch.ones(1)}
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(ExportError, match=r"5 tensors hold NaN or Inf: w0, w1, w2, \.\.\."):
        read_state_dict(tmp_path / "a.safetensors")


def test_sparse_weights_are_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.eye(2).to_sparse()}, tmp_path / "a.pt")
    with pytest.raises(ExportError, match="'w' is not a plain dense tensor"):
        read_state_dict(tmp_path / "a.pt")


class TestLoadInto:
    def test_a_fitting_state_is_copied(self) -> None:
        module, state = nn.Linear(3, 2), {"weight": torch.ones(2, 3), "bias": torch.ones(2)}
        load_into(module, state)
        assert torch.equal(module.weight, state["weight"])
        state["weight"].zero_()
        assert module.weight.all()

    def test_a_meta_module_takes_the_tensors(self) -> None:
        with torch.device("meta"):
            module = nn.Linear(3, 2)
        state = {"weight": torch.ones(2, 3), "bias": torch.ones(2)}
        load_into(module, state)
        assert module.weight.data_ptr() == state["weight"].data_ptr()

    def test_all_problems_come_in_one_error(self) -> None:
        module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
        state = {
            "0.weight": torch.ones(3, 3),
            "0.bias": torch.ones(2),
            "1.weight": torch.ones(2, 2),
            "1.bais": torch.ones(2),
        }
        with pytest.raises(ExportError) as caught:
            load_into(module, state)
        assert "1 missing:\n  1.bias (did you mean '1.bais'?)" in caught.value.message
        assert "1 unexpected:\n  1.bais (did you mean '1.bias'?)" in caught.value.message
        assert "0.weight: expected [2, 3], found [3, 3]" in caught.value.message

    def test_long_lists_are_cut_and_counted(self) -> None:
        module = nn.Sequential(*(nn.Linear(1, 1) for _ in range(6)))
        with pytest.raises(ExportError, match=r"(?s)12 missing:.*and 7 more"):
            load_into(module, {})
