"""`bench --runtime` of a GPU: engines of bundles, or graphs in ONNX Runtime's CUDA kernels, and what was estimated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from dsr_export.backends.cuda.clocks import clocks
from dsr_export.backends.opening import chosen_engine, cuda_runner, engine_runner
from dsr_export.backends.runtime_names import CUDA_RUNNER, Runtime
from dsr_export.benchmark.gpu_facts import gpu_facts
from dsr_export.benchmark.gpu_race import GpuContestant, GpuTiming, gpu_race
from dsr_export.benchmark.race import Contestant
from dsr_export.benchmark.schedules import bundle_schedule
from dsr_export.bundle.manifest_parts import BundleTarget
from dsr_export.bundle.reader import Bundle
from dsr_export.engine_schedule.devices import DEVICES, device_called
from dsr_export.engine_schedule.plan_text import UnreadableSchedule
from dsr_export.engine_schedule.roofline import estimate, lacking
from dsr_export.errors import ExportError
from dsr_export.progress import Reporter


def bench_on_gpu(
    contestants: Sequence[Contestant],
    runtime: Runtime,
    feeds: Mapping[str, Any],
    *,
    batch: int,
    rounds: int,
    warmup: int,
    beside: Sequence[GpuContestant] = (),
    reporter: Reporter,
) -> dict[str, Any]:
    """`gpu` (its name, driver and clocks, before and after), `timings`, and `models`: name -> `memory_bytes`, and of an
    engine the `estimate` for this GPU beside what was measured within the device. Ratios are to the first of `beside`,
    where there are any.

    Raises:
        ExportError: no GPU, or something that has no engine for `runtime`.
    """
    engines = {each.name: _engine(each, runtime) for each in contestants}
    entrants = [_entrant(each, engines[each.name], reporter) for each in contestants]
    gpu = gpu_facts(needed=runtime != CUDA_RUNNER)
    with reporter.stage("bench") as bar:
        timings, memory = gpu_race([*beside, *entrants], feeds, rounds=rounds, warmup=warmup, progress=bar)
    models = {
        name: {"memory_bytes": memory[name], "estimate": engine and _judged(name, engine, batch, gpu, timings)}
        for name, engine in engines.items()
    }
    return {
        "gpu": gpu | {"clocks_after": clocks(gpu["bus"])},
        "timings": list(map(asdict, timings)),
        "models": models,
    }


def _engine(each: Contestant, runtime: Runtime) -> tuple[Bundle, BundleTarget] | None:
    """None for a graph that runs as it is: an ONNX file has no engine, and stands beside those that have."""
    if each.bundle is None or runtime == CUDA_RUNNER:
        return None
    engine = chosen_engine(each.bundle, runtime)
    if engine is None:
        raise ExportError(f"{each.bundle.path} holds no engine that runs here", hint="dsr-export compile adds one")
    return each.bundle, engine


def _entrant(each: Contestant, engine: tuple[Bundle, BundleTarget] | None, reporter: Reporter) -> GpuContestant:
    if engine is None:
        opened = partial(cuda_runner, each.model, each.inputs, say=reporter.note)
        return GpuContestant(name=each.name, open=lambda graphs: opened(graphs=graphs), graphs=("never", "always"))
    bundle, entry = engine
    return GpuContestant(
        name=each.name,
        open=lambda graphs: engine_runner(bundle, entry, say=reporter.note, graphs=graphs),
        graphs=("never", "always"),
    )


def _judged(
    name: str, engine: tuple[Bundle, BundleTarget], batch: int, gpu: Mapping[str, Any], timings: Sequence[GpuTiming]
) -> dict[str, Any]:
    """The schedule's estimate beside the measured medians within the device; `problem` where there is none."""
    device = device_called(gpu["name"], gpu["memory_bytes"])
    if device is None:
        return {"problem": f"there is no data of the device '{gpu['name']}'"}
    try:
        launches = bundle_schedule(*engine, batch).launches
    except UnreadableSchedule as error:
        return {"problem": f"the schedule cannot be read: {error}"}
    if (missing := lacking(launches, DEVICES[device])) is not None:
        return {"problem": f"by its data sheet {device} has no {missing}"}
    found = estimate(launches, DEVICES[device])
    measured = {each.graph: each.median_ms for each in timings if (each.name, each.place) == (name, "device")}
    told: dict[str, Any] = {"device": device, "problem": None, **asdict(found)}
    for key, graph in (("stream", False), ("graph", True)):
        median = measured.get(graph)
        told[f"{key}_measured"] = None if median is None else median / told[f"{key}_ms"]
    return told
