"""Whether a CUDA GPU is here and which, asked of the driver alone: without torch, a CUDA toolkit or TensorRT."""

from __future__ import annotations

import ctypes
import sys

_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*, cuda.h


def gpu_available() -> bool:
    """Whether the driver sees at least one device. Never raises."""
    return compute_capability() is not None


def compute_capability() -> str | None:
    """`"8.9"` of the first device, or None where there is no device or no driver. Never raises."""
    try:
        return _ask(ctypes.CDLL(_DRIVER))
    except (OSError, AttributeError):  # no driver, or a stub of one
        return None


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
