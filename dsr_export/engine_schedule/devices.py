"""The devices that times are estimated for: what their vendor says they can do at most.

Peaks are of dense products (data sheets that tell the sparse rate have it halved here), those of half types with FP32
sums, which GeForce cards do at half the rate of FP16 sums. FP32 is that of the plain cores: engines are built without
TF32. A type at twice the width runs at half the rate where the sheet does not tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dsr_export.errors import ExportError
from graphs.errors import did_you_mean


@dataclass(frozen=True, kw_only=True)
class Device:
    """`bandwidth`: bytes per second. `half`, `eight` (INT8 and FP8) and `single`: operations per second, two for each
    product that is summed up. `source`: where the vendor says so.
    """

    bandwidth: float
    half: float
    eight: float
    single: float
    source: str

    def peak(self, computes: str) -> float:
        """Of a product with these operands (`int8`, `float16 x int8`): the slower of both, in which it is made."""
        rates = {"half": self.half, "eight": self.eight, "single": self.single}
        return min(rates[_RATES[each]] for each in computes.split(" x "))


_RATES = {
    "int8": "eight",
    "uint8": "eight",
    "float8e4m3": "eight",
    "int4": "eight",  # no device here multiplies it as it is
    "float4e2m1": "eight",  # twice that on Blackwell, nothing on others
    "float16": "half",
    "bfloat16": "half",
    "float32": "single",
}


def _device(gigabytes: float, half: float, eight: float, single: float, source: str) -> Device:
    """In the units of data sheets: GB/s, and TFLOPS or TOPS."""
    return Device(bandwidth=gigabytes * 1e9, half=half * 1e12, eight=eight * 1e12, single=single * 1e12, source=source)


DEVICES: Mapping[str, Device] = {
    "orin-agx": _device(
        204.8, 42.5, 85, 5.3, "Jetson AGX Orin Series Technical Brief v1.2 (64 GB: GPU 170 sparse INT8 TOPS)"
    ),
    "orin-nx": _device(102.4, 15, 30, 1.88, "Jetson Orin NX Series Data Sheet (16 GB: GPU 60 sparse INT8 TOPS)"),
    "thor": _device(273, 258, 517, 8.06, "Jetson Thor Series Modules Data Sheet (T5000: 2070 sparse FP4 TFLOPS)"),
    "rtx4060": _device(272, 30.2, 121, 15.1, "GeForce RTX 4060 specifications (242 sparse FP8 TOPS)"),
    "rtx4090": _device(1008, 165.2, 660.6, 82.6, "NVIDIA Ada GPU Architecture, V2.01, appendix A"),
    "rtx5090": _device(1792, 209.5, 838, 104.8, "NVIDIA RTX Blackwell GPU Architecture, V1.0, appendix A"),
    "l4": _device(300, 121, 242.5, 30.3, "NVIDIA L4 Tensor Core GPU Datasheet (485 sparse INT8 TOPS)"),
    "h100-sxm": _device(3350, 989.5, 1979, 67, "NVIDIA H100 Tensor Core GPU Datasheet (SXM: 3958 sparse INT8 TOPS)"),
}


def named_devices(names: Sequence[str]) -> dict[str, Device]:
    """Those of `DEVICES`, in the order given. Raises ExportError for any other name."""
    for name in names:
        if name not in DEVICES:
            raise ExportError(
                f"there is no data of a device '{name}'",
                hint=did_you_mean(name, DEVICES) or "choose from " + ", ".join(DEVICES),
            )
    return {name: DEVICES[name] for name in names}
