"""`bench --roofline`: times of engines on named devices, estimated from what the engines launch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dsr_export.benchmark.contestants import asked_model
from dsr_export.benchmark.race import Contestant
from dsr_export.benchmark.schedules import bundle_schedule
from dsr_export.bundle.reader import Bundle
from dsr_export.config import BatchRange, ModelRequest
from dsr_export.engine_schedule.devices import DEVICES, Device, named_devices
from dsr_export.engine_schedule.plan_text import UnreadableSchedule
from dsr_export.engine_schedule.reader import read_schedule
from dsr_export.engine_schedule.record import EngineSchedule
from dsr_export.engine_schedule.roofline import Estimate, estimate, not_estimated
from dsr_export.errors import ExportError
from dsr_export.progress import Reporter
from dsr_export.stages.type_graph import declared_policy
from dsr_export.storage.leftovers import scratch_folder
from dsr_export.subject import SubjectCard
from graphs.artifacts import OptimizedModel
from graphs.forms import form_of, take_form
from graphs.mixed_precision.typed import assign_precision
from graphs.precisions import Precision
from graphs.targets import BUILDS_ANYWHERE, target

PRECISION: Precision = "fp16"
"""Of the engines that are built here for a model: FP32 ones launch other kernels than anyone ships."""

TIMES = ("stream", "graph")


@dataclass(frozen=True)
class Engine:
    """One row of the comparison."""

    name: str
    schedule: EngineSchedule


def estimated(
    what: Sequence[str], request: ModelRequest, devices: Sequence[str], *, batch: int, reporter: Reporter
) -> list[dict[str, Any]]:
    """A row for each engine of the bundles in `what`, or of one model with one DSR part more in each.

    Each has `name`, `batch`, `launches`, `moved_bytes`, and `devices`: device -> `stream_ms`, `graph_ms`,
    `memory_share`, and the ratios of both times to those of the first engine, and of the one before (None where that
    does not run on the device). `not_estimated` says of other devices what they lack for the engine. Bundles are taken
    at the batch that their engines are tuned for, a model at `batch`: `bare` without registers, `plain` with them, and
    `dsr` with detection and replacement or neuron shifts as well.

    Raises:
        ExportError: an unknown device, none that runs any of the engines, a file that has no engine, or a plan whose
            schedule cannot be read.
    """
    chosen = named_devices(devices)
    bundles = [Path(each) for each in what if Path(each).is_dir()]
    if bundles and len(bundles) < len(what):
        raise ExportError("bundles are not compared with models", hint="name one kind")
    if not bundles and any(each.lower().endswith(".onnx") for each in what):
        raise ExportError("an ONNX file has no engine to estimate", hint="build it: dsr-export build FILE.onnx")
    with reporter.stage("prepare"):
        engines = [engine for path in bundles for engine in _of_bundle(path, reporter)] or _of_model(
            what, request, batch
        )
    found = list(rows(engines, chosen))
    _check_any(engines, found)
    return found


def _of_bundle(path: Path, say: Reporter) -> list[Engine]:
    """Engines that do not tell what they launch are left out beside one that does, and named."""
    bundle = Bundle.open(path)
    own = [each for each in bundle.manifest.targets if each.engine]
    if not own:
        raise ExportError(f"{path} has no engine", hint=f"build one: {BUILDS_ANYWHERE}")
    found, problems = list[Engine](), list[ExportError]()
    for each in own:
        name = path.name if len(own) == 1 else f"{path.name} {each.name}"
        try:
            found.append(Engine(name, bundle_schedule(bundle, each, bundle.manifest.batch.opt)))
        except UnreadableSchedule as error:
            problems.append(_unreadable(str(path / str(each.engine)), error))
    if not found:
        raise problems[0]
    for problem in problems:
        say.note(problem.message)
    return found


def _of_model(what: Sequence[str], request: ModelRequest, batch: int) -> list[Engine]:
    from dsr_export.benchmark.variants import model_variants
    from dsr_export.benchmark.without_registers import bare_variant

    subject = asked_model(what, request)
    with scratch_folder("bench") as folder:
        bare = bare_variant(subject, folder)
        variants = model_variants(subject, folder)[1:]  # the raw trace is no graph of ours
        chosen = variants if bare is None else (bare, *variants)
        return [half_engine(each, subject.card(), folder, batch) for each in chosen]


def half_engine(of: Contestant, card: SubjectCard, folder: Path, batch: int) -> Engine:
    """The RTX engine of a graph (FP32) in FP16, but for what only a range audit finds; it writes into `folder`.

    Raises ExportError where its schedule cannot be read.
    """
    from dsr_export.backends.tensorrt.build import build_engine

    where = target("rtx")
    name, typed, form = form_of(where), folder / f"{of.name}-typed.onnx", folder / f"{of.name}-form.onnx"
    made, _ = assign_precision(OptimizedModel(path=of.model), typed, PRECISION, declared_policy(card, name))
    take_form(made, form, name)
    engine = build_engine(form, where, batch=BatchRange(batch, batch, batch), inputs=card.inputs)
    try:
        return Engine(of.name, read_schedule(engine.plan, batch))
    except UnreadableSchedule as error:
        raise _unreadable(f"the engine '{of.name}'", error) from error


def _unreadable(what: str, error: UnreadableSchedule) -> ExportError:
    return ExportError(
        f"the schedule of {what} cannot be read: {error}",
        hint="it was built by a version whose plans are not known here",
    )


def rows(engines: Sequence[Engine], devices: Mapping[str, Device]) -> Iterator[dict[str, Any]]:
    """As `estimated` returns them."""
    found = [_estimates(each, devices) for each in engines]
    for engine, own, before in zip(engines, found, [found[0], *found], strict=False):
        launches = engine.schedule.launches
        told = {name: {**asdict(own[name]), **_ratios(own[name], found[0].get(name), before.get(name))} for name in own}
        sums = {"launches": len(launches), "moved_bytes": engine.schedule.moved}
        named = {"name": engine.name, "batch": engine.schedule.batch}
        yield {**named, **sums, "devices": told, "not_estimated": not_estimated(launches, devices)}


def _estimates(engine: Engine, devices: Mapping[str, Device]) -> dict[str, Estimate]:
    """On those devices that run it."""
    launches = engine.schedule.launches
    left_out = not_estimated(launches, devices)
    return {name: estimate(launches, device) for name, device in devices.items() if name not in left_out}


def _check_any(engines: Sequence[Engine], found: Sequence[Mapping[str, Any]]) -> None:
    """Raises ExportError where not one engine runs on one of the devices."""
    reasons = dict.fromkeys(reason for row in found for reason in row["not_estimated"].values())
    if reasons and not any(row["devices"] for row in found):
        left_out = [not_estimated(each.schedule.launches) for each in engines]
        others = [name for name in DEVICES if not all(name in each for each in left_out)]
        raise ExportError(
            f"no engine here runs on the devices named: {', '.join(reasons)}",
            hint=f"choose from {', '.join(others)}; or build in a precision that the devices have",
        )


def _ratios(own: Estimate, first: Estimate | None, before: Estimate | None) -> dict[str, float | None]:
    """None where the other engine does not run on the device."""
    sides = {"ratio": first, "step": before}
    return {
        f"{key}_{name}": None if side is None else getattr(own, f"{key}_ms") / getattr(side, f"{key}_ms")
        for name, side in sides.items()
        for key in TIMES
    }
