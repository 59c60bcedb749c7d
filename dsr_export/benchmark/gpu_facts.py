"""What a time on a GPU is a time of: the device, its driver, and how fast its clocks run."""

from __future__ import annotations

from typing import Any

from dsr_export.backends.cuda.clocks import clocks
from dsr_export.backends.cuda.driver import open_cuda
from dsr_export.backends.gpu import pci_bus
from dsr_export.errors import ExportError


def gpu_facts(*, needed: bool) -> dict[str, Any]:
    """`name`, `memory_bytes`, `cuda` (the newest that the driver knows), `bus` and `clocks`.

    Without the driver's bindings, where they are not `needed`, the clocks alone are known.
    """
    try:
        cuda = open_cuda()
    except ExportError:
        if needed:
            raise
        bus = pci_bus()
        return {"name": None, "memory_bytes": None, "cuda": None, "bus": bus, "clocks": clocks(bus)}
    try:
        with cuda.current():
            _, total = cuda.free_and_total()
        facts = {"name": cuda.name(), "memory_bytes": total, "cuda": cuda.driver_version()}
        return {**facts, "bus": cuda.bus(), "clocks": clocks(cuda.bus())}
    finally:
        cuda.close()
