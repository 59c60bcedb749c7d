"""What each method costs in the engine: its launches, the bytes it moves, and its time on named devices, estimated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dsr_export.backends.tensorrt.vendor import load_vendor
from dsr_export.benchmark.estimates import half_engine, rows
from dsr_export.benchmark.race import Contestant
from dsr_export.benchmark.schedules import RTX
from dsr_export.benchmark.variants import optimized
from dsr_export.diagnosis.record import rounded
from dsr_export.engine_schedule.devices import named_devices
from dsr_export.families import FamilyRequest, load
from dsr_export.progress import Reporter
from dsr_export.storage.leftovers import scratch_folder

BATCH = 2  # one picture with guidance
ESTIMATED = (
    f"Launches and bytes are read from an FP16 engine for a batch of {BATCH}; its times are estimates, as a CUDA "
    "graph, and in brackets the ratio to `none`"
)
Costs = Mapping[str, Mapping[str, Any]]
"""Method -> a row of `benchmark.estimates.estimated`, whose ratios are to the first method."""


def method_costs(models: Mapping[str, FamilyRequest], devices: Sequence[str], shown: Reporter) -> Costs:
    """Of an FP16 engine of TensorRT-RTX for each model, at a batch of `BATCH`. Empty where no devices are named.

    Raises ExportError for a device that is not known, and where there is no TensorRT-RTX or its plans can't be read.
    """
    chosen = named_devices(devices)
    if not chosen:
        return {}
    load_vendor(RTX)  # before the traces, which take longer
    engines = []
    for done, (method, model) in enumerate(models.items()):
        with shown.stage(f"engine of '{method}'") as bar, scratch_folder("methods") as folder:
            subject = load(model)
            graph = optimized(subject.trace(folder / "symbolic.onnx"), folder, method)
            engines.append(half_engine(Contestant(method, graph, subject.inputs), subject.card(), folder, BATCH))
            bar(done + 1, len(models))
    return {row["name"]: row for row in rows(engines, chosen)}


def engine_dict(cost: Mapping[str, Any]) -> dict[str, Any]:
    """JSON values of one method: `batch`, `launches`, `moved_bytes`, and for each device `graph_ms` and `ratio`."""
    devices = {
        name: {"graph_ms": rounded(each["graph_ms"]), "ratio": rounded(each["graph_ratio"])}
        for name, each in cost["devices"].items()
    }
    return {**{name: cost[name] for name in ("batch", "launches", "moved_bytes")}, "devices": devices}


def engine_figures(cost: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """The same for people: what a figure is of, and the figure. Empty where there is no engine."""
    if cost is None:
        return []
    made = [("launches", str(cost["launches"])), ("moved", f"{cost['moved_bytes'] / 1e6:.1f} MB")]
    devices = cost["devices"].items()
    return made + [(name, f"{each['graph_ms']:.3f} ms ({each['graph_ratio']:.3f}x)") for name, each in devices]
