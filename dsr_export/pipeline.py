"""The whole export as one straight function: model in, verified bundle out."""

from __future__ import annotations

from functools import partial

from dsr_export import stages
from dsr_export.build import Build
from dsr_export.bundle.destination import check_destination
from dsr_export.bundle.reader import Bundle
from dsr_export.bundle.sbom import SBOM, sbom
from dsr_export.bundle.writer import write_bundle
from dsr_export.chain import check_chain
from dsr_export.config import ExportConfig
from dsr_export.contents import build_tolerance, bundle_contents, bundle_manifest
from dsr_export.disk import DamagedFile
from dsr_export.int8 import stages as int8
from dsr_export.locks import exclusive
from dsr_export.narrowing import require_narrowed, require_types
from dsr_export.progress import Reporter, Silent
from dsr_export.report import build_report
from dsr_export.reports.files import report_files
from dsr_export.subject import SubjectCard
from dsr_export.tap_stages import TAPS, make_taps
from graphs.files import load_model
from graphs.targets import check_model


def export(config: ExportConfig, *, reporter: Reporter | None = None) -> Bundle:
    """Builds the bundle that `config` asks for, or finds it up to date.

    The bundle is written even when parity fails, and says so: `bundle.report()["passed"]`.

    Raises:
        ExportError: bad input, an unsupported graph, a missing runtime, or an output folder that is not ours.
    """
    build = Build(config, reporter or Silent())
    build.check_targets()
    with exclusive(build.out):
        if check_destination(build.out, build.key, config.force) == "same":
            bundle = Bundle.open(build.out)
            build.reporter.note(f"{build.out} is up to date")
            return bundle
        while True:
            try:
                return _export(build)
            except DamagedFile:
                if not build.start_over():
                    raise


def _export(build: Build) -> Bundle:
    config, run = build.config, build.stage
    traced = run("trace", build.subject_key, partial(stages.trace_subject, build.load))
    card = SubjectCard.load(traced.path / stages.CARD)
    card.check_batch(config.batch)
    check_chain(card, build.components)
    sampler = stages.parity_sampler(card, config.batch, config.trajectory_steps)

    key = {"subject": build.subject_key, "batch": config.batch, "sampler": sampler}
    reference = run("reference", key, partial(stages.make_reference, build.load, config.batch, sampler))
    golden = stages.golden(reference.path)
    build.unload()

    lowered = run("lower", {"of": traced.digest}, partial(stages.lower_graph, traced.path))
    optimized = run("optimize", {"of": lowered.digest}, partial(stages.optimize_graph, lowered.path))

    exact = int8.calibrated(build, card, optimized) if config.precision == "int8" else optimized
    key = {"of": exact.digest, "card": card, "golden": reference.digest, "sampler": sampler}
    audited = run("audit", key, partial(stages.audit_ranges, exact.path, card, golden, sampler))
    audit = stages.range_audit(audited.path)

    key = {"of": optimized.digest, "card": card, "golden": reference.digest}
    norms = run("norms", key, partial(stages.measure_norms, optimized.path, card, golden))

    ready = int8.quantized(build, card, exact, golden, reference) if config.precision == "int8" else exact
    key = {"of": ready.digest, "card": card, "audit": audited.digest, "precision": config.precision}
    typed = run("type", key, partial(stages.type_graph, ready.path, card, audit, config.precision))
    advice = require_narrowed(config.precision, stages.read_json(typed.path / stages.FACTS))
    if advice is not None:
        build.reporter.note(advice)
    require_types(config.precision, load_model(typed.path / stages.MODEL, weights=False))
    for target in build.targets:  # before any engine is built: an unsupported op should not cost minutes
        check_model(typed.path / stages.MODEL, target)

    engines = {}
    for target in build.engine_targets:
        options = {"target": target.name, "batch": config.batch, "on": stages.machine(target)}
        key = {"of": typed.digest, "card": card, **options}
        job = partial(stages.compile_engine, typed.path, card, target, config.batch)
        engines[target.name] = run("engine", key, job)

    key = {"of": optimized.digest, "card": card, "golden": reference.digest, "batch": config.batch}
    job = partial(make_taps, optimized.path, reference.path, card, config.batch)
    taps = run("taps", key, job)

    tolerance = build_tolerance(config)
    check = stages.ParityJob(
        card=card,
        golden=golden,
        sampler=sampler,
        precision=config.precision,
        tolerance=tolerance,
        batch=config.batch,
        taps=taps.path / TAPS,
    )
    key = {**vars(check), "golden": reference.digest, "taps": taps.digest}  # every field of the job; files by content
    parity = [run("parity", {"of": typed.digest, **key}, partial(check.typed_graph, typed.path))]
    for target in build.runnable_targets:
        plan = engines[target.name]
        own = {"of": plan.digest, "target": target.name, "on": stages.machine(target)}
        parity.append(run("parity-engine", {**own, **key}, partial(check.engine, target, plan.path)))

    calibration = (exact, ready) if config.precision == "int8" else None
    contents = bundle_contents(build, typed, reference, taps, engines, calibration)
    report = build_report(
        build, card, [lowered, optimized], typed, audit, engines, reference, parity, calibration, norms, contents
    )
    contents |= report_files(report)
    manifest = bundle_manifest(build, card, engines, audit)
    contents[SBOM] = sbom(manifest, contents)
    return Bundle.open(write_bundle(build.out, manifest, contents, force=config.force))
