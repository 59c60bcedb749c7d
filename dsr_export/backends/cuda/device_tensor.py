"""Tensors in a GPU's memory: what runners give and take without a copy to the host."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from dsr_export.backends.base import Array, Runner
from dsr_export.backends.cuda import dlpack
from dsr_export.errors import ExportError

Finish = Callable[[], None]
LEGACY_STREAM = 1
"""DLPack's number of CUDA's default stream."""
_ON_HOST = (dlpack.CPU, dlpack.CUDA_HOST)
_ON_DEVICE = (dlpack.CUDA, dlpack.CUDA_MANAGED)


@dataclass(frozen=True, kw_only=True)
class DeviceTensor:
    """A contiguous array at `pointer`. `torch.from_dlpack` and `cupy.from_dlpack` take it without a copy.

    `owner` keeps its memory. `read` copies it to the host; `finish` waits until what makes it is done, which those who
    read it by other means must do first. `device` is the CUDA device's index.
    """

    pointer: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    device: int
    owner: Any = field(repr=False, compare=False)
    read: Callable[[DeviceTensor], Array] = field(repr=False, compare=False)
    finish: Callable[[], None] = field(repr=False, compare=False)
    kind: int = dlpack.CUDA

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def numpy(self) -> Array:
        """A copy on the host."""
        return self.read(self)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """For whoever asks for an array of numpy: a copy, as it can be nothing else."""
        if copy is False:
            raise ValueError("a tensor on a GPU is no array without a copy")
        return np.asarray(self.numpy(), dtype)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a tensor without axes has no length")
        return self.shape[0]

    def __getitem__(self, row: int) -> DeviceTensor:
        """One row, in the same memory."""
        if not 0 <= row < len(self):
            raise IndexError(row)
        size = math.prod(self.shape[1:]) * self.dtype.itemsize
        return replace(self, pointer=self.pointer + row * size, shape=self.shape[1:])

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.kind, self.device

    def __dlpack__(self, *, stream: int | None = None, **options: object) -> object:
        """Finished when it is handed on, whatever stream its taker works on."""
        if options.get("copy") or options.get("dl_device") not in (None, self.__dlpack_device__()):
            raise BufferError("only memory that is there is handed on")
        self.finish()
        if (share := getattr(self.owner, "share", None)) is not None:
            share()
        return dlpack.exported(self.pointer, self.shape, self.dtype, self.__dlpack_device__(), owner=self.owner)


@runtime_checkable
class DeviceRunner(Runner, Protocol):
    """A runner whose inputs and outputs may stay on its GPU."""

    def upload(self, array: Array) -> DeviceTensor:
        """A copy on the GPU, for any number of calls."""
        ...

    def infer_on_device(self, inputs: Mapping[str, Any]) -> dict[str, DeviceTensor]:
        """As `infer`: arrays of numpy are copied, DLPack tensors on its GPU are read where they lie.

        Raises what `infer` does, and ExportError for tensors on another device.
        """
        ...


def array_shape(value: Any) -> Array:
    """A stand-in of the shape and type of a tensor on a device, which takes no memory."""
    return np.broadcast_to(np.empty((), value.dtype), value.shape)


def on_host(value: Any) -> bool:
    """Whether it is an array of the host's memory. What has no DLPack is numpy's to judge."""
    device = getattr(value, "__dlpack_device__", None)
    return device is None or int(device()[0]) in _ON_HOST


def is_foreign(value: Any, finish: Callable[[], None]) -> bool:
    """Whether what works on it is in another order than what `finish` waits for: another framework, another runner."""
    return not on_host(value) and getattr(value, "finish", None) != finish


@contextlib.contextmanager
def device_inputs(
    inputs: Mapping[str, Any], *, device: int, stream: int, upload: Callable[[Array], DeviceTensor], finish: Finish
) -> Iterator[dict[str, DeviceTensor]]:
    """All of them on `device`, within the block: the host's uploaded, others where they lie.

    Their makers order what they still do before what `stream` does next; `finish` is its runner's.

    Raises:
        ExportError: one on another device, or of a form that is not taken.
    """
    for value in inputs.values():
        if isinstance(value, DeviceTensor) and value.finish != finish:
            value.finish()
    with contextlib.ExitStack() as held:
        yield {name: _on_device(name, value, device, stream, upload, held) for name, value in inputs.items()}


def _on_device(
    name: str,
    value: Any,
    device: int,
    stream: int | None,
    upload: Callable[[Array], DeviceTensor],
    held: contextlib.ExitStack,
) -> DeviceTensor:
    if on_host(value):
        made = upload(np.asarray(value))
        if (release := getattr(made.owner, "release", None)) is not None:
            held.callback(release)  # what is copied later goes into the same stream
        return made
    kind, index = (int(part) for part in value.__dlpack_device__())
    if kind not in _ON_DEVICE or index != device:
        where = f"CUDA device {index}" if kind in _ON_DEVICE else f"a device of DLPack's kind {kind}"
        raise ExportError(f"input '{name}' lies on {where}, and the model runs on CUDA device {device}")
    if isinstance(value, DeviceTensor):
        return value
    found = held.enter_context(dlpack.taken(value.__dlpack__(stream=stream), name))
    pointer, shape, dtype = found
    return DeviceTensor(
        pointer=pointer, shape=shape, dtype=dtype, device=device, owner=value, read=_unread, finish=lambda: None
    )


def _unread(tensor: DeviceTensor) -> Array:
    raise ExportError("a tensor of another framework is read by that framework")
