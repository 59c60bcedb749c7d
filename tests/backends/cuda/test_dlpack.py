"""Tensors handed on and taken by their address; on the host's memory, which numpy and torch read as they do a GPU's."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from dsr_export.backends.cuda import dlpack
from dsr_export.backends.cuda.device_tensor import DeviceTensor, device_inputs
from dsr_export.errors import ExportError


class Owner:
    """Counts what is done with its memory."""

    def __init__(self) -> None:
        self.shared = 0

    def share(self) -> None:
        self.shared += 1


def tensor(array: np.ndarray, owner: Any, finish: Callable[[], None] = lambda: None, kind: int = dlpack.CPU) -> Any:
    return DeviceTensor(
        pointer=array.ctypes.data,
        shape=array.shape,
        dtype=array.dtype,
        device=0,
        owner=owner,
        read=lambda made: array.copy(),
        finish=finish,
        kind=kind,
    )


@pytest.fixture
def array() -> np.ndarray:
    return np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.mark.parametrize("take", [np.from_dlpack, torch.from_dlpack])
def test_frameworks_share_the_memory_and_keep_it(take: Callable[[Any], Any], array: np.ndarray) -> None:
    before = len(dlpack._handed_out)
    owner, finished = Owner(), []
    made = take(tensor(array, owner, lambda: finished.append(1)))
    assert made.shape == (3, 4) and owner.shared == 1 and finished
    array[0, 0] = 9
    assert float(made[0, 0]) == 9
    assert len(dlpack._handed_out) == before + 1  # the owner lives as long as the reader
    del made
    gc.collect()
    assert len(dlpack._handed_out) == before


def test_a_capsule_that_nobody_takes_lets_go(array: np.ndarray) -> None:
    before = len(dlpack._handed_out)
    capsule = tensor(array, Owner()).__dlpack__()
    assert len(dlpack._handed_out) == before + 1
    del capsule
    assert len(dlpack._handed_out) == before


def test_numpy_gets_a_copy_and_no_other_device_is_promised(array: np.ndarray) -> None:
    made = tensor(array, Owner(), kind=dlpack.CUDA)
    copied = np.asarray(made)
    np.testing.assert_array_equal(copied, array)
    assert not np.shares_memory(copied, array)
    for options in ({"dl_device": (dlpack.CPU, 0)}, {"copy": True}):
        with pytest.raises(BufferError):
            made.__dlpack__(**options)


def test_a_row_lies_in_the_same_memory(array: np.ndarray) -> None:
    np.testing.assert_array_equal(np.from_dlpack(tensor(array, Owner())[1]), array[1])
    with pytest.raises(IndexError):
        tensor(array, Owner())[3]


@pytest.mark.parametrize("made", [np.arange(6).reshape(2, 3), torch.arange(6).reshape(2, 3)])
def test_tensors_of_others_are_read_where_they_lie(made: Any) -> None:
    pointer = made.data_ptr() if isinstance(made, torch.Tensor) else made.ctypes.data
    with dlpack.taken(made.__dlpack__(), "x") as found:
        assert found == (pointer, (2, 3), np.dtype(np.int64))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (lambda: torch.zeros(2, 3).T.__dlpack__(), "'x' is not contiguous"),
        (lambda: torch.zeros(2, dtype=torch.bfloat16).__dlpack__(), "a type that numpy has not"),
        (lambda: object(), "no DLPack capsule"),
    ],
)
def test_what_cannot_be_read_is_refused(value: Callable[[], Any], said: str) -> None:
    with pytest.raises(ExportError, match=said), dlpack.taken(value(), "x"):
        pass


def test_a_capsule_is_taken_once(array: np.ndarray) -> None:
    capsule = array.__dlpack__()
    with dlpack.taken(capsule, "x"):
        pass
    with pytest.raises(ExportError, match="no DLPack capsule"), dlpack.taken(capsule, "x"):
        pass


class Elsewhere:
    """A tensor of another framework on the CUDA device 3, or on a device of another kind."""

    def __init__(self, kind: int, index: int) -> None:
        self.where = (kind, index)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.where

    def __dlpack__(self, *, stream: int | None = None) -> object:
        raise AssertionError("nothing is read of it")


@pytest.mark.parametrize(("kind", "said"), [(2, "lies on CUDA device 3"), (10, "DLPack's kind 10")])
def test_another_device_is_named(kind: int, said: str) -> None:
    here: dict[str, Any] = {"device": 0, "stream": 1, "finish": lambda: None}
    given = device_inputs({"x": Elsewhere(kind, 3)}, **here, upload=lambda array: tensor(array, Owner()))
    with pytest.raises(ExportError, match=f"{said}.*runs on CUDA device 0"), given:
        pass
