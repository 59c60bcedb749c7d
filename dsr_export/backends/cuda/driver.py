"""CUDA's driver API, by NVIDIA's own bindings: the one module that imports them.

The driver's library comes with the driver itself, so that no CUDA toolkit is needed, and TensorRT's work and ours share
the device's primary context, as the work of torch and CuPy does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from dsr_export.backends.gpu import VISIBLE, gpu_problem
from dsr_export.errors import ExportError, RunnerError

NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: it does not wait for the default stream
THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
OUT_OF_MEMORY, BUSY, NO_DEVICE, WRONG_DEVICE = 2, 46, 100, 101  # CUresult, cuda.h
_HOLDERS = "end other processes that hold it (`nvidia-smi` lists them), or use a smaller batch"


class Cuda:
    """The primary context of one device. `device` is its index among those that CUDA_VISIBLE_DEVICES leaves."""

    def __init__(self, api: Any, device: int = 0) -> None:
        """`api` is `cuda.bindings.driver`, or what stands in for it. RunnerError where there is no such device."""
        self.api, self.device = api, device
        self.call("cuInit", 0)
        self._handle = self.call("cuDeviceGet", device)
        self._context = self.call("cuDevicePrimaryCtxRetain", self._handle)

    def close(self) -> None:
        """Gives the context back, once."""
        if self._context is not None:
            self.api.cuDevicePrimaryCtxRelease(self._handle)
            self._context = None

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Calls within the block are for this device; afterwards the caller's own context is current again."""
        self.call("cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            self.api.cuCtxPopCurrent()

    def call(self, name: str, *arguments: Any) -> Any:
        """What the function of that name returns beside its code. Raises RunnerError, in words, where it fails."""
        try:
            code, *made = getattr(self.api, name)(*arguments)
        except RuntimeError as error:  # bindings of a newer CUDA than the driver's call functions that it lacks
            raise self._lacking(name, error) from error
        if int(code):
            raise self._error(name, code)
        return made[0] if len(made) == 1 else tuple(made)

    def give_back(self, name: str, *arguments: Any) -> None:
        """Frees or destroys, whatever context is current: what fails then has failed before, and was said."""
        (pushed,) = self.api.cuCtxPushCurrent(self._context)
        try:
            getattr(self.api, name)(*arguments)
        finally:
            if not int(pushed):
                self.api.cuCtxPopCurrent()

    def free_and_total(self) -> tuple[int, int]:
        """Bytes of the device's memory."""
        free, total = self.call("cuMemGetInfo")
        return int(free), int(total)

    def name(self) -> str:
        """As the vendor calls the device."""
        raw = self.call("cuDeviceGetName", 128, self._handle)
        return bytes(raw).split(b"\0")[0].decode(errors="replace").strip()

    def bus(self) -> str:
        """Where the device is, as `nvidia-smi -i` takes it."""
        raw = self.call("cuDeviceGetPCIBusId", 32, self._handle)
        return bytes(raw).split(b"\0")[0].decode(errors="replace")

    def driver_version(self) -> str:
        """The newest CUDA that the driver knows: `13.0`."""
        return _version(self.call("cuDriverGetVersion"))

    def _lacking(self, name: str, error: RuntimeError) -> RunnerError:
        told = f"the driver has no {name} for the installed cuda-bindings {_bindings()}: {error}"
        with contextlib.suppress(RuntimeError):
            failed, number = self.api.cuDriverGetVersion()
            if not int(failed):
                suits = f"pip install 'cuda-bindings<{int(number) // 1000 + 1}'"
                return RunnerError(told, hint=f"{suits}, for a driver of CUDA {_version(number)}; or update the driver")
        return RunnerError(told, hint="update the driver")

    def _error(self, name: str, code: Any) -> RunnerError:
        number = int(code)
        if number == OUT_OF_MEMORY:
            return RunnerError(f"the GPU is out of memory{self._left()}", hint=_HOLDERS)
        if number == BUSY:
            return RunnerError("the GPU is taken by another process", hint="end it: `nvidia-smi` shows which it is")
        if number in (NO_DEVICE, WRONG_DEVICE):
            hint = f"see `nvidia-smi -L`, and {VISIBLE}"
            return RunnerError(f"there is no GPU with the index {self.device}", hint=hint)
        said = self._said("cuGetErrorString", code) or "it says no more"
        return RunnerError(f"the GPU failed in {name}: {said} ({self._said('cuGetErrorName', code) or number})")

    def _left(self) -> str:
        code, *found = self.api.cuMemGetInfo()
        return "" if int(code) else f": {int(found[0]) / 2**30:.1f} of {int(found[1]) / 2**30:.1f} GB are free"

    def _said(self, name: str, code: Any) -> str:
        failed, text = getattr(self.api, name)(code)
        return "" if int(failed) or not text else bytes(text).decode(errors="replace")


def _version(number: Any) -> str:
    return f"{int(number) // 1000}.{int(number) % 1000 // 10}"


def _bindings() -> str:
    try:
        return metadata.version("cuda-bindings")
    except metadata.PackageNotFoundError:
        return "package"


def require_gpu() -> None:
    """Raises ExportError, with the cause, where no GPU can be used."""
    if (problem := gpu_problem()) is not None:
        raise ExportError(problem, hint="use --runtime onnxruntime")


def open_cuda(device: int = 0) -> Cuda:
    """The GPU with the index `device`.

    Raises:
        ExportError: no driver, no GPU, or the package with the bindings is missing.
        RunnerError: there is no device of that index, or it cannot be used.
    """
    require_gpu()
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise ExportError(
            f"the package 'cuda-bindings' is not installed, or does not load: {error}",
            hint="pip install cuda-bindings",
        ) from error
    return Cuda(driver, device)
