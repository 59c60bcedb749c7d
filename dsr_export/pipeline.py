"""The whole export as one straight function: model in, verified bundle out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dsr_export.building.build import Build
from dsr_export.building.bundle_contents import aimed_snr, beyond_snr, build_tolerance, bundle_contents, bundle_manifest
from dsr_export.building.calibration import calibration, check_calibration, measured_share
from dsr_export.building.finished import Finished, placed
from dsr_export.building.fused_steps import compared_steps, fused_steps, fusing_of
from dsr_export.building.parts import built_parts, check_parts
from dsr_export.building.report import build_report
from dsr_export.bundle.destination import check_destination
from dsr_export.bundle.reader import MODEL, Bundle
from dsr_export.bundle.sbom import SBOM, sbom
from dsr_export.bundle.writer import write_bundle
from dsr_export.config import ExportConfig
from dsr_export.drawing.chain import check_chain
from dsr_export.errors import ExportError, RunnerError
from dsr_export.parity.narrowing import require_narrowed, require_types
from dsr_export.parity.walked_sampler import walked_sampler
from dsr_export.progress import Reporter, Silent
from dsr_export.reports.renderings import report_files
from dsr_export.stages.audit import AuditRanges
from dsr_export.stages.engine import CompileEngine, machine, this_gpu
from dsr_export.stages.lower import LowerGraph
from dsr_export.stages.norms import MeasureNorms
from dsr_export.stages.optimize import OptimizeGraph
from dsr_export.stages.parity import CheckCuda, CheckEngine, CheckGraph, CheckRuntimeGraph, Comparison, Judged
from dsr_export.stages.quantize import Quantize, Quantized
from dsr_export.stages.reference import MakeReference
from dsr_export.stages.taps import MakeTaps
from dsr_export.stages.trace import TraceModel
from dsr_export.stages.type_graph import Typed, TypeGraph
from dsr_export.storage.disk import DamagedFile
from dsr_export.storage.locks import exclusive
from graphs.files import load_model
from graphs.forms import FormName, form_of
from graphs.targets import check_model


def export(config: ExportConfig, *, reporter: Reporter | None = None) -> Bundle:
    """Builds the bundle that `config` asks for, or finds it up to date.

    The bundle is written even when parity fails, and says so: `bundle.report()["passed"]`.

    Raises:
        ExportError: bad input, an unsupported graph, a missing runtime, or an output folder that is not ours.
    """
    return _exported(Build(config, reporter or Silent()))


def calibrate_share(config: ExportConfig, *, reporter: Reporter | None = None) -> Path:
    """Measures the share `config.int8.share` of a calibration into a folder in `config.out`, and builds nothing.

    `export` with `config.int8.parts` takes all of them together. Returns the share's folder.

    Raises:
        ExportError: as `export`; no share is asked for; the folder holds one of another calibration.
    """
    return measured_share(Build(config, reporter or Silent()))


def _exported(build: Build) -> Bundle:
    config = build.config
    if config.int8.share is not None:
        raise ExportError("a share of a calibration makes no bundle", hint="call `calibrate_share`, or leave it away")
    build.check_targets()
    if build.is_quantized:
        check_calibration(build)
    with exclusive(build.out):
        if check_destination(build.out, build.key, config.force) == "same":
            bundle = Bundle.open(build.out)
            build.reporter.note(f"{build.out} is up to date")
            return bundle
        with built_parts(build, _exported) as build.parts:
            while True:
                try:
                    return _sealed(build, _staged(build))
                except DamagedFile:
                    if not build.start_over():
                        raise


def _staged(build: Build) -> Finished:
    """Every stage in order. Each is known by what it is given, and taken from the cache where it was made before."""
    config, run = build.config, build.run
    traced = run(TraceModel(model=build.model))
    card = traced.card
    card.check_batch(config.batch)
    check_chain(card, build.given_components)
    check_parts(build, card)
    sampler = walked_sampler(card, config.batch, config.trajectory_steps)
    fusing = fusing_of(build, card, sampler) if config.fuse_step else None
    reference = run(MakeReference(model=build.model, batch=config.batch, sampler=sampler, walk=build.walk))
    build.model.unload()

    lowered = run(LowerGraph(source=traced))
    optimized = run(OptimizeGraph(source=lowered))

    calibrated = run(calibration(build, card, optimized)) if build.is_quantized else None
    exact = optimized if calibrated is None else calibrated
    audited = run(AuditRanges(source=exact, card=card, reference=reference, sampler=sampler))
    norms = run(MeasureNorms(source=optimized, card=card, reference=reference))

    tolerance = build_tolerance(config)
    quantize = calibrated and Quantize(
        source=calibrated,
        card=card,
        reference=reference,
        precision=config.precision,
        aim_db=aimed_snr(config),
        held_db=tolerance.snr_db,
        beyond_db=beyond_snr(config),
        for_engines="engine" in build.forms,
    )
    quantized = run(quantize) if quantize else None
    source = quantized or exact
    typed = {
        form: run(TypeGraph(source=source, card=card, audited=audited, precision=config.precision, form=form))
        for form in build.forms
    }
    _check_typed(build, typed, quantized)

    engines = {
        each.name: run(
            CompileEngine(source=typed[form_of(each)], card=card, target=each, batch=config.batch, on=machine(each))
        )
        for each in build.engine_targets
    }
    taps = run(MakeTaps(source=optimized, reference=reference, card=card, batch=config.batch))
    held = Comparison(card=card, reference=reference, sampler=sampler, tolerance=tolerance)
    steps = None if fusing is None else fused_steps(build, fusing, typed)
    parity: list[tuple[str | None, Judged]] = []
    for path, graph in placed(typed).items():
        whole = CheckGraph(source=graph, comparison=held, taps=taps, batch=config.batch)
        checked = run(whole if graph.name == MODEL else CheckRuntimeGraph(source=graph, comparison=held))
        parity.append((None if path == MODEL else path, checked))
    first = typed[build.forms[0]]
    parity += _on_cuda(build, CheckCuda(source=first.own or first, comparison=held, on=this_gpu()))
    for each in build.runnable_targets:
        checked = run(CheckEngine(source=engines[each.name], comparison=held, target=each, on=this_gpu()))
        parity.append((None, checked))
    if steps is not None:
        parity += compared_steps(build, steps, held)
    return Finished(
        traced=traced,
        reference=reference,
        lowered=lowered,
        optimized=optimized,
        calibrated=calibrated,
        audited=audited,
        norms=norms,
        quantized=quantized,
        typed=typed,
        engines=engines,
        steps=steps,
        taps=taps,
        parity=tuple(parity),
    )


def _on_cuda(build: Build, stage: CheckCuda) -> list[tuple[None, Judged]]:
    """The graph's verdict on a GPU. Where one is and does not open the graph (a type that it has no kernels for, too
    little memory), that is no fault of the graph's, and is said."""
    if not build.checks_cuda:
        return []
    try:
        return [(None, build.run(stage))]
    except RunnerError as error:
        build.reporter.note(f"{error.message}; the graph is checked on the CPU alone")
        return []


def _check_typed(build: Build, typed: Mapping[FormName, Typed], quantized: Quantized | None) -> None:
    """Before any engine is built: an unsupported op should not cost minutes."""
    gemms = quantized.facts["gemms"] if quantized is not None else ()
    advice = require_narrowed(build.config.precision, typed[build.forms[0]].facts, gemms)
    if advice is not None:
        build.reporter.note(advice)
    for each in typed.values():
        require_types(build.config.precision, load_model(each.model.path, weights=False))
    for where in build.targets:
        check_model(typed[form_of(where)].model.path, where)


def _sealed(build: Build, done: Finished) -> Bundle:
    """The bundle of what the stages made: its files, its report, its manifest."""
    contents = bundle_contents(build, done)
    contents |= report_files(build_report(build, done, contents))
    manifest = bundle_manifest(build, done)
    contents[SBOM] = sbom(manifest, contents)
    return Bundle.open(write_bundle(build.out, manifest, contents, force=build.config.force))
