"""Whether a CUDA GPU is here and which, asked of the driver alone: without torch, a CUDA toolkit or TensorRT."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterable

_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*, cuda.h
_BUS_LENGTH = 32  # of its text
VISIBLE = "CUDA_VISIBLE_DEVICES"
_NO_DEVICE, _INVALID_DEVICE = 100, 101  # CUresult, cuda.h
_REASONS = {
    2: "the driver has no memory left to start with",
    46: "the GPU is in use by another process, and taken by one alone",
    802: "the system is not ready: its fabric manager does not run",
    803: "the driver's library and its kernel module are of different versions",
    804: "the CUDA compatibility package in use does not fit the driver",
}


def gpu_available() -> bool:
    """Whether the driver sees at least one device. Never raises."""
    return compute_capability() is not None


def compute_capability() -> str | None:
    """`"8.9"` of the first device, or None where there is no device or no driver. Never raises."""
    try:
        return _ask(ctypes.CDLL(_DRIVER))
    except (OSError, AttributeError):  # no driver, or a stub of one
        return None


def gpu_problem() -> str | None:
    """Why no GPU can be used here, in words; None where one can. Never raises."""
    if compute_capability() is not None:
        return None
    try:
        driver = ctypes.CDLL(_DRIVER)
        count = ctypes.c_int(0)
        code = int(driver.cuInit(0)) or int(driver.cuDeviceGetCount(ctypes.byref(count)))
    except (OSError, AttributeError):
        return f"there is no NVIDIA driver here ({_DRIVER} does not load)"
    visible = os.environ.get(VISIBLE)
    if code in (_NO_DEVICE, _INVALID_DEVICE) or (code == 0 and count.value < 1):
        hidden = f"CUDA_VISIBLE_DEVICES is '{visible}', and no GPU is left of it"
        return "there is no GPU here" if visible is None else hidden
    return f"the GPU driver does not start: {_REASONS.get(code, 'it says no more')} (CUDA error {code})"


def pci_bus() -> str | None:
    """Where the first device is, as `nvidia-smi -i` takes it: that counts all devices, and in another order. Never
    raises; None where the driver does not tell."""
    try:
        driver, device = ctypes.CDLL(_DRIVER), ctypes.c_int(0)
        place = ctypes.create_string_buffer(_BUS_LENGTH)
        failed = driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0)
        failed = failed or driver.cuDeviceGetPCIBusId(place, _BUS_LENGTH, device)
    except (OSError, AttributeError):
        return None
    return None if failed else place.value.decode(errors="replace")


def copy_within(copies: Iterable[tuple[int, int, int]]) -> None:
    """Copies within the GPU's memory, each (to, from, bytes), and waits for them. RuntimeError where one fails."""
    driver = ctypes.CDLL(_DRIVER)
    for to, source, size in copies:
        code = int(driver.cuMemcpyDtoD_v2(ctypes.c_uint64(to), ctypes.c_uint64(source), ctypes.c_size_t(size)))
        if size and code:
            raise RuntimeError(f"the GPU failed (CUDA error {code})")
    finish_all()


def finish_all() -> None:
    """Waits for all that this process started on the GPU, on whatever stream. RuntimeError where it fails."""
    code = int(ctypes.CDLL(_DRIVER).cuCtxSynchronize())
    if code:
        raise RuntimeError(f"the GPU failed (CUDA error {code})")


def _ask(driver: ctypes.CDLL) -> str | None:
    """None where any call fails; they return 0 on success."""
    count, device = ctypes.c_int(0), ctypes.c_int(0)
    failed = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if failed or count.value < 1 or driver.cuDeviceGet(ctypes.byref(device), 0):
        return None
    numbers = []
    for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR):
        value = ctypes.c_int(0)
        if driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device):
            return None
        numbers.append(str(value.value))
    return ".".join(numbers)
