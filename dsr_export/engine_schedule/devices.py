"""The devices that times are estimated for: what their vendor says they can do at most.

Peaks are of dense products (data sheets that tell the sparse rate have it halved here), those of half types, of FP8 and
of FP4 with FP32 sums, which GeForce cards do at half the rate of FP16 sums but for FP4. FP32 is that of the plain
cores: engines are built without TF32. A type at twice the width runs at half the rate where the sheet does not tell.
What a device does not multiply at all has no rate, and an engine with such types no estimate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dsr_export.errors import ExportError
from graphs.errors import did_you_mean


@dataclass(frozen=True, kw_only=True)
class Device:
    """`bandwidth`: bytes per second. `half`, `integer` (INT8), `eight` (FP8), `four` (FP4) and `single`: operations per
    second, two for each product that is summed up; None where there is no such product. `source`: where the vendor says
    so. `capability` is its compute capability.
    """

    capability: str
    bandwidth: float
    half: float
    integer: float
    eight: float | None
    four: float | None
    single: float
    source: str

    def peak(self, computes: str) -> float:
        """Of a product with these operands (`int8`, `float16 x int8`): the slower of both, in which it is made.

        Raises ValueError for operands that the device lacks.
        """
        rates: list[float | None] = [getattr(self, _RATES[each]) for each in computes.split(" x ")]
        told = [each for each in rates if each is not None]
        if len(told) < len(rates):
            raise ValueError(f"no product of {computes}")
        return min(told)

    def lacks(self, types: Iterable[str]) -> list[str]:
        """Those of the element types that it has no product of, as they are said; sorted."""
        named = {name for each, name in _NAMED.items() if each in types and getattr(self, _RATES[each]) is None}
        return sorted(named)


_RATES = {
    "int8": "integer",
    "uint8": "integer",
    "float8e4m3": "eight",
    "int4": "integer",  # no device here multiplies it as it is
    "float4e2m1": "four",
    "float16": "half",
    "bfloat16": "half",
    "float32": "single",
}


_NAMED = {"float8e4m3": "FP8", "float4e2m1": "FP4"}


def _device(
    capability: str,
    gigabytes: float,
    *,
    half: float,
    integer: float,
    eight: float | None = None,
    four: float | None = None,
    single: float,
    source: str,
) -> Device:
    """In the units of data sheets: GB/s, and TFLOPS or TOPS."""
    return Device(
        capability=capability,
        bandwidth=gigabytes * 1e9,
        half=half * 1e12,
        integer=integer * 1e12,
        eight=None if eight is None else eight * 1e12,
        four=None if four is None else four * 1e12,
        single=single * 1e12,
        source=source,
    )


DEVICES: Mapping[str, Device] = {
    "orin-agx": _device(
        "8.7",
        204.8,
        half=42.5,
        integer=85,
        single=5.3,
        source="Jetson AGX Orin Series Modules Data Sheet DS-10662-001 v1.8 (64 GB: 204.8 GB/s, GPU 170 sparse INT8 "
        "TOPS), Technical Brief v1.2 (5.3 FP32 TFLOPS)",
    ),
    "orin-nx": _device(
        "8.7",
        102,
        half=15,
        integer=30,
        single=1.88,
        source="Jetson Orin NX Series Data Sheet DS-10712-001 v1.7 (16 GB: 102 GB/s, 1024 cores at 918 MHz, 100 sparse "
        "INT8 TOPS, the DLAs' 40 among them; MAXN_SUPER is faster)",
    ),
    "thor": _device(
        "11.0",
        273,
        half=258,
        integer=517,
        eight=517,
        four=1035,
        single=8.06,
        source="Jetson Thor Series Modules Data Sheet (T5000: 273 GB/s, 2070 sparse FP4 and 1035 sparse FP8 TFLOPS, "
        "2560 cores at 1575 MHz); INT8 is not told there, and taken to be FP8's",
    ),
    "rtx4060": _device(
        "8.9",
        272,
        half=30.2,
        integer=121,
        eight=60.5,
        single=15.1,
        source="GeForce RTX 4060 specifications (242 sparse AI TOPS, 15 TFLOPS)",
    ),
    "rtx4090": _device(
        "8.9",
        1008,
        half=165.2,
        integer=660.6,
        eight=330.3,
        single=82.6,
        source="NVIDIA Ada GPU Architecture, V2.02, appendix A",
    ),
    "rtx5090": _device(
        "12.0",
        1792,
        half=209.5,
        integer=838,
        eight=419,
        four=1676,
        single=104.8,
        source="NVIDIA RTX Blackwell GPU Architecture, V1.0, appendix A (3352 sparse FP4 AI TOPS)",
    ),
    "l4": _device(
        "8.9",
        300,
        half=121,
        integer=242.5,
        eight=242.5,
        single=30.3,
        source="NVIDIA L4 Tensor Core GPU Datasheet (485 sparse INT8 TOPS)",
    ),
    "h100-sxm": _device(
        "9.0",
        3350,
        half=989.5,
        integer=1979,
        eight=1979,
        single=67,
        source="NVIDIA H100 Tensor Core GPU Datasheet (SXM: 3958 sparse INT8 TOPS)",
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
