"""Weights side by side, against what numpy says of them."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dsr_export.bundle.manifest import FileEntry
from dsr_export.diff.weights import WeightFile, weight_difference
from graphs.digests import files_digest
from graphs.quantize.formats import FP8, INT8


def held(folder: Path, external: bool = False, **values: Any) -> WeightFile:
    """A graph that holds `values`, in a folder of its own; `__` in a name stands for a dot."""
    folder.mkdir()
    tensors = [numpy_helper.from_array(value, name.replace("__", ".")) for name, value in values.items()]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", [tensors[0].name], ["y"])], "g", [], [output], tensors)
    model = helper.make_model(graph)
    options = {"save_as_external_data": True, "location": "data", "size_threshold": 0} if external else {}
    onnx.save(model, folder / "model.onnx", **options)
    files = {"data": FileEntry(sha256=files_digest([folder / "data"]), size=1)} if external else {}
    return WeightFile(onnx.load(folder / "model.onnx", load_external_data=False), folder, files)


@pytest.mark.parametrize("external", [False, True], ids=["inline", "external"])
def test_what_changed_is_measured_and_the_worst_comes_first(
    external: bool, tmp_path: Path, rng: np.random.Generator
) -> None:
    same, much, little = (rng.standard_normal((64, 32)).astype(np.float32) for _ in range(3))
    noise = 1e-3 * rng.standard_normal((64, 32)).astype(np.float32)
    a = held(tmp_path / "a", external, same=same, little=little, much=much, gone=same)
    b = held(tmp_path / "b", external, same=same, little=little + noise, much=2 * much, new=same)
    found = weight_difference(a, b)
    assert (found["unchanged"], found["added"], found["removed"]) == (1, ["new"], ["gone"])
    assert [change["name"] for change in found["changed"]] == ["much", "little"]
    worst, small = found["changed"]
    assert worst["snr_db"] == pytest.approx(0.0)
    assert worst["max_abs"] == pytest.approx(np.abs(much).max())
    truth, error = little.astype(np.float64), (little + noise).astype(np.float64) - little
    assert small["snr_db"] == pytest.approx(10 * np.log10((truth**2).sum() / (error**2).sum()), abs=1e-6)
    assert small["max_abs"] == pytest.approx(np.abs(error).max())


def test_a_half_copy_is_the_same_weight(tmp_path: Path, rng: np.random.Generator) -> None:
    full = rng.standard_normal(1000).astype(np.float32)
    found = weight_difference(
        held(tmp_path / "a", w=full, both=full, both__float16=full.astype(np.float16)),
        held(tmp_path / "b", w__float16=full.astype(np.float16), both=full),
    )
    (change,) = found["changed"]
    assert (change["name"], change["a"], change["b"]) == ("w", "float[1000]", "float16[1000]")
    assert 65 < change["snr_db"] < 80  # 11 bits
    assert found["removed"] == ["both.float16"]  # beside its original it is a tensor of its own


def test_what_cannot_be_measured_says_why(tmp_path: Path) -> None:
    a = held(tmp_path / "a", w=np.ones(4, np.float32), n=np.ones(4, np.float32), zero=np.zeros(3, np.float32))
    b = held(tmp_path / "b", w=np.ones(5, np.float32), n=np.array([1, np.nan, 1, 1], np.float32), zero=np.ones(3, "f"))
    problems = {change["name"]: (change["problem"], change["snr_db"]) for change in weight_difference(a, b)["changed"]}
    assert problems == {"w": ("another shape", None), "n": ("NaN or infinite values", None), "zero": (None, -300.0)}


def test_codes_of_two_formats_have_no_figures(tmp_path: Path) -> None:
    """They stand for other numbers, by scales of their own."""
    codes = np.arange(-8, 8, dtype=np.float32)
    a = held(tmp_path / "a", w=INT8.codes(codes), same=FP8.codes(codes))
    b = held(tmp_path / "b", w=FP8.codes(codes), same=FP8.codes(codes * 2))
    found = {change["name"]: (change["problem"], change["snr_db"]) for change in weight_difference(a, b)["changed"]}
    assert found == {"w": ("codes of another format", None), "same": (None, pytest.approx(0.0))}


def test_one_tensor_is_in_memory_at_a_time(tmp_path: Path) -> None:
    values = {f"w{i}": np.full(1 << 20, i, np.float32) for i in range(16)}  # 4 MiB each
    a = held(tmp_path / "a", True, **values)
    b = held(tmp_path / "b", True, **{name: value + np.float32(1) for name, value in values.items()})
    del values
    tracemalloc.start()
    assert len(weight_difference(a, b)["changed"]) == 16
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 48 << 20  # two tensors and their FP64 copies, of 128 MiB


def test_equal_data_files_are_not_read(tmp_path: Path) -> None:
    a, b = (held(tmp_path / name, True, w=np.ones(4, np.float32)) for name in "ab")
    (tmp_path / "b" / "data").unlink()
    assert weight_difference(a, b)["unchanged"] == 1
