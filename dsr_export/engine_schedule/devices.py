"""The devices that times are estimated for: what their vendor says they can do at most.

Peaks are of dense products (data sheets that tell the sparse rate have it halved here), those of half types and of FP8
with FP32 sums, which GeForce cards do at half the rate of FP16 sums. FP32 is that of the plain cores: engines are built
without TF32. A type at twice the width runs at half the rate where the sheet does not tell; FP8 runs as half types do
on a device that has no such product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dsr_export.errors import ExportError
from graphs.errors import did_you_mean


@dataclass(frozen=True, kw_only=True)
class Device:
    """`bandwidth`: bytes per second. `half`, `integer` (INT8), `eight` (FP8) and `single`: operations per second, two
    for each product that is summed up. `source`: where the vendor says so.
    """

    bandwidth: float
    half: float
    integer: float
    eight: float
    single: float
    source: str

    def peak(self, computes: str) -> float:
        """Of a product with these operands (`int8`, `float16 x int8`): the slower of both, in which it is made."""
        return min(float(getattr(self, _RATES[each])) for each in computes.split(" x "))


_RATES = {
    "int8": "integer",
    "uint8": "integer",
    "float8e4m3": "eight",
    "int4": "integer",  # no device here multiplies it as it is
    "float4e2m1": "eight",  # far more on Blackwell, nothing on others
    "float16": "half",
    "bfloat16": "half",
    "float32": "single",
}


def _device(gigabytes: float, half: float, integer: float, eight: float, single: float, source: str) -> Device:
    """In the units of data sheets: GB/s, and TFLOPS or TOPS."""
    rates = {"half": half, "integer": integer, "eight": eight, "single": single}
    return Device(bandwidth=gigabytes * 1e9, **{name: rate * 1e12 for name, rate in rates.items()}, source=source)


DEVICES: Mapping[str, Device] = {
    "orin-agx": _device(
        204.8,
        42.5,
        85,
        42.5,
        5.3,
        "Jetson AGX Orin Series Modules Data Sheet DS-10662-001 v1.8 (64 GB: 204.8 GB/s, GPU 170 sparse INT8 TOPS), "
        "Technical Brief v1.2 (5.3 FP32 TFLOPS)",
    ),
    "orin-nx": _device(
        102,
        15,
        30,
        15,
        1.88,
        "Jetson Orin NX Series Data Sheet DS-10712-001 v1.7 (16 GB: 102 GB/s, 1024 cores at 918 MHz, 100 sparse "
        "INT8 TOPS, the DLAs' 40 among them; MAXN_SUPER is faster)",
    ),
    "thor": _device(
        273,
        258,
        517,
        517,
        8.06,
        "Jetson Thor Series Modules Data Sheet (T5000: 273 GB/s, 1035 sparse FP8 TFLOPS, 2560 cores at 1575 MHz); "
        "INT8 is not told there, and taken to be FP8's",
    ),
    "rtx4060": _device(272, 30.2, 121, 60.5, 15.1, "GeForce RTX 4060 specifications (242 sparse AI TOPS, 15 TFLOPS)"),
    "rtx4090": _device(1008, 165.2, 660.6, 330.3, 82.6, "NVIDIA Ada GPU Architecture, V2.02, appendix A"),
    "rtx5090": _device(1792, 209.5, 838, 419, 104.8, "NVIDIA RTX Blackwell GPU Architecture, V1.0, appendix A"),
    "l4": _device(300, 121, 242.5, 242.5, 30.3, "NVIDIA L4 Tensor Core GPU Datasheet (485 sparse INT8 TOPS)"),
    "h100-sxm": _device(
        3350, 989.5, 1979, 1979, 67, "NVIDIA H100 Tensor Core GPU Datasheet (SXM: 3958 sparse INT8 TOPS)"
    ),
}


def named_devices(names: Sequence[str]) -> dict[str, Device]:
    """Those of `DEVICES`, in the order given. Raises ExportError for any other name."""
    for name in names:
        if name not in DEVICES:
            raise ExportError(
                f"there is no data of a device '{name}'" if name else "a device's name is empty",
                hint=did_you_mean(name, DEVICES) or "choose from " + ", ".join(DEVICES),
            )
    return {name: DEVICES[name] for name in names}


_CALLED = {
    "NVIDIA Thor": "thor",
    "NVIDIA GeForce RTX 4060": "rtx4060",
    "NVIDIA GeForce RTX 4090": "rtx4090",
    "NVIDIA GeForce RTX 5090": "rtx5090",
    "NVIDIA L4": "l4",
    "NVIDIA H100 80GB HBM3": "h100-sxm",
}
"""What the driver calls them."""
_ORIN, _AGX_BYTES = "Orin", 24 << 30


def device_called(name: str, memory: int) -> str | None:
    """The one of `DEVICES` that the driver calls so, with that many bytes of memory; None where it is none of them."""
    if name == _ORIN:  # both modules
        return "orin-agx" if memory > _AGX_BYTES else "orin-nx"
    return _CALLED.get(name)
