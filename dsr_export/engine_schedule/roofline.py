"""How long an engine would take on a device, estimated: no kernel is faster than memory or arithmetic let it be.

Per launch: max(bytes / bandwidth, operations / peak) + what it costs to launch. Real kernels reach neither peak, what
stays in a cache is not moved again, and two streams are taken one after the other: an estimate ranks engines of one
model, and is no measurement.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from dsr_export.engine_schedule.devices import DEVICES, Device
from dsr_export.engine_schedule.record import Launch

STREAM_SECONDS, GRAPH_SECONDS = 2e-6, 0.7e-6
"""What one launch costs: put into a stream by the host, or replayed in a CUDA graph."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Milliseconds of one call, and which part of the kernels' time (launch costs apart) memory is the limit."""

    stream_ms: float
    graph_ms: float
    memory_share: float


def lacking(launches: Iterable[Launch], device: Device) -> str | None:
    """What the device lacks of what these launches read, write and multiply (`FP8`), in words; None where it runs them
    all."""
    found = device.lacks({each for launch in launches for each in (*launch.types, *_operands(launch))})
    return " and no ".join(found) or None


def not_estimated(launches: Iterable[Launch], devices: Mapping[str, Device] = DEVICES) -> dict[str, str]:
    """Device -> why an engine of these launches does not run on it; those that run it are left out."""
    own = tuple(launches)
    found = {name: lacking(own, device) for name, device in devices.items()}
    return {name: f"{name} has no {missing}" for name, missing in found.items() if missing is not None}


def estimate(launches: Iterable[Launch], device: Device) -> Estimate:
    """Of all launches, one after the other. Raises ValueError for products that the device lacks (`lacking`)."""
    times = [(_moving(each, device), _computing(each, device)) for each in launches]
    busy = sum(max(each) for each in times)
    limited = sum(moving for moving, computing in times if moving >= computing)
    return Estimate(
        stream_ms=1e3 * (busy + STREAM_SECONDS * len(times)),
        graph_ms=1e3 * (busy + GRAPH_SECONDS * len(times)),
        memory_share=limited / busy if busy else 0.0,
    )


def estimates(launches: Iterable[Launch], *, of: Iterable[Launch] | None = None) -> dict[str, dict[str, float]]:
    """Device -> its estimate, for every device there is data of that runs the engine: all launches `of` it."""
    own = tuple(launches)
    left_out = not_estimated(own if of is None else of)
    return {name: asdict(estimate(own, device)) for name, device in DEVICES.items() if name not in left_out}


def _operands(launch: Launch) -> list[str]:
    return [] if launch.computes is None else launch.computes.split(" x ")


def _moving(launch: Launch, device: Device) -> float:
    return launch.moved / device.bandwidth


def _computing(launch: Launch, device: Device) -> float:
    """0 where the launch multiplies no matrices: elementwise arithmetic is never the limit."""
    if launch.operations is None or launch.computes is None:
        return 0.0
    return launch.operations / device.peak(launch.computes)
