"""Golden vectors are refused where they do not fit the manifest, before anything is computed with them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dsr_export.config import BatchRange
from dsr_export.errors import ExportError
from dsr_export.parity.golden.reader import read_golden
from dsr_export.parity.golden.vectors import Golden
from graphs.artifacts import TensorSpec

Arrays = dict[str, Any]


def _spec(name: str) -> TensorSpec:
    return TensorSpec(name=name, dtype="float32", shape=("batch", 2))


def _arrays() -> Arrays:
    row = np.ones((1, 2), np.float32)
    return {
        "batch1/in/x": row,
        "batch1/out/out": row,
        "trajectory/noise": row,
        "trajectory/labels": np.zeros(1, np.int64),
        "trajectory/states": np.stack([row, row]),
    }


def _read(arrays: Arrays, **changes: Any) -> Golden:
    fields = {"batch": BatchRange(1, 2, 4), "inputs": (_spec("x"),), "outputs": (_spec("out"),), "sampler": None}
    manifest = SimpleNamespace(**{**fields, **changes})
    bundle: Any = SimpleNamespace(manifest=manifest, golden=lambda: arrays, file=lambda name: Path("b.dsr") / name)
    return read_golden(bundle)


def test_what_fits_is_read() -> None:
    golden = _read(_arrays())
    assert list(golden.cases) == [1]
    assert golden.trajectory is not None
    assert golden.trajectory.states.shape == (2, 1, 2)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("batchx/in/x", np.ones((1, 2), np.float32), "no batch size"),
        ("batch01/in/x", np.ones((1, 2), np.float32), "no batch size"),
        ("batch999999999/in/x", np.ones((1, 2), np.float32), "outside of 1 to 4"),
        ("batch1/in/x", np.ones((1, 3), np.float32), "input 'x' has shape"),
        ("batch1/in/x", np.ones((2, 2), np.float32), "'x' has shape"),
        ("batch1/out/more", np.ones((1, 2), np.float32), "other outputs than the manifest"),
        ("batch1/out/out", np.float32(1), "'out' has shape"),
        ("batch1/out/out", np.ones((1, 0), np.float32), "'out' has shape"),
        ("given/in/x", np.ones((65, 2), np.float32), "65 given rows, and 1 to 64"),
        ("given/in/x", np.ones((3, 3), np.float32), "given rows: input 'x' has shape"),
        ("special/in/x", np.ones((3, 2), np.float32), "special rows has other outputs"),
        ("special/out/out", np.ones((3, 2), np.float32), "0 special rows"),
        ("trajectory/more", np.ones(1), "with more"),
        ("trajectory/labels", np.zeros(1), "other types"),
        ("trajectory/labels", np.zeros(2, np.int64), "do not fit each other"),
        ("trajectory/states", np.zeros((0, 1, 2), np.float32), "do not fit each other"),
        ("trajectory/noise", np.full((1, 2), np.nan, np.float32), "not finite"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, value: Any, said: str) -> None:
    with pytest.raises(ExportError, match=said) as caught:
        _read({**_arrays(), name: np.asarray(value)})
    assert caught.value.hint


@pytest.mark.parametrize(
    ("without", "said"), [("batch", "holds no batch"), ("trajectory/noise", "without noise"), ("batch1/out", "outputs")]
)
def test_what_is_missing_is_said(without: str, said: str) -> None:
    with pytest.raises(ExportError, match=said):
        _read({name: value for name, value in _arrays().items() if not name.startswith(without)})


def _walked(noise: np.ndarray, *inputs: TensorSpec) -> Golden:
    """A denoiser's: `x`, `t`, `y` as its sampler feeds them."""
    row, state = np.ones((1, 2), np.float32), np.stack([noise, noise])
    case = {"x": row, "t": np.zeros(1, np.float32), "y": np.zeros(1, np.int64)}
    arrays = {f"batch1/in/{spec.name}": case.get(spec.name, row) for spec in inputs}
    walk = {"trajectory/noise": noise, "trajectory/states": state}
    return _read({**_arrays(), **arrays, **walk}, inputs=inputs, sampler={"num_steps": 3})


def test_a_trajectory_fits_the_model() -> None:
    time = TensorSpec(name="t", dtype="float32", shape=("batch",))
    label = TensorSpec(name="y", dtype="int64", shape=("batch",))
    wide = np.ones((1, 2))  # is fed as float32
    assert _walked(wide, _spec("x"), time, label).trajectory is not None
    with pytest.raises(ExportError, match=r"golden\.npz holds a trajectory that does not fit the model: input 'x' has"):
        _walked(np.ones((1, 3)), _spec("x"), time, label)
    with pytest.raises(ExportError, match="does not fit the model: input 'more' is missing"):
        _walked(wide, _spec("x"), time, label, _spec("more"))
