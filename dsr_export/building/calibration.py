"""The calibration of a quantised build: as a stage, and a share of it by itself, for the build of another machine."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from dsr_export.backends.gpu import compute_capability
from dsr_export.building.build import Build
from dsr_export.building.parts import check_parts
from dsr_export.bundle.destination import absolute, aside, finish_interrupted, settle_old, temporary
from dsr_export.declarations.calibration_part import read_part
from dsr_export.declarations.share import Share
from dsr_export.errors import ExportError
from dsr_export.int8.data import check_data
from dsr_export.int8.made_for import checked_parts, difference
from dsr_export.int8.measure import close, opened
from dsr_export.int8.parts import write_part
from dsr_export.parity.walked_sampler import walked_sampler
from dsr_export.stages.calibrate import Calibrate
from dsr_export.stages.lower import LowerGraph
from dsr_export.stages.optimize import Optimized, OptimizeGraph
from dsr_export.stages.trace import TraceModel
from dsr_export.storage.disk import DamagedFile, flush_path, remove_tree, write_error
from dsr_export.storage.leftovers import undone
from dsr_export.storage.locks import exclusive
from dsr_export.subject import SubjectCard
from graphs.quantize.schemes import scheme_of

_ELSEWHERE = "free some space, or give an --out on another disk"
_OTHER = "give another --out, or --force to replace it"


def check_calibration(build: Build) -> None:
    """Before a model is traced, which takes longer: raises ExportError for data or shares that can't be read, and for a
    pipeline that can't be walked."""
    options = build.config.int8
    check_data(options)
    if options.parts:
        checked_parts(options.parts)
    _ = build.walk


def calibration(build: Build, card: SubjectCard, optimized: Optimized) -> Calibrate:
    """The stage."""
    options, config = build.config.int8, build.config
    sampler = walked_sampler(card, config.batch, options.steps or config.trajectory_steps)
    return Calibrate(
        source=optimized,
        card=card,
        sampler=sampler,
        options=options.without_budget(),
        precision=config.precision,
        model=build.model,
        walk=build.walk,
    )


def measured_share(build: Build) -> Path:
    """Measures a share into a folder of its own in the build's `--out`, unless it is there. Returns that folder.

    Raises:
        ExportError: as a build, and where the folder is there and of another calibration; no share is asked for.
    """
    share = build.config.int8.share
    if share is None:
        raise ExportError("no share of a calibration is asked for", hint="give --calibration-only")
    build.check_precisions(compute_capability())
    check_calibration(build)
    place = (build.config.out or Path(f"{build.name}.calibration")) / str(share)
    _check_place(place, force=build.config.force)
    with exclusive(place):
        while True:
            try:
                return _measured(build, share, place)
            except DamagedFile:
                if not build.start_over():
                    raise


def _measured(build: Build, share: Share, place: Path) -> Path:
    traced = build.run(TraceModel(model=build.model))
    traced.card.check_batch(build.config.batch)
    check_parts(build, traced.card)
    build.model.unload()
    optimized = build.run(OptimizeGraph(source=build.run(LowerGraph(source=traced))))
    stage = calibration(build, traced.card, optimized)
    if _is_there(place, stage, force=build.config.force):
        build.reporter.note(f"{place} is up to date")
    else:
        _write(build, stage, share, place)
    return place


def _write(build: Build, stage: Calibrate, share: Share, place: Path) -> None:
    folder = temporary(place)
    with undone(partial(remove_tree, folder)):
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            finish_interrupted(place)
            folder.mkdir()
            with build.reporter.stage(stage.name) as bar:
                data = stage.data()
                observed = opened(stage.source.model, stage.card, stage.options, scheme_of(stage.precision), folder)
                found = observed.measured(data, folder, bar, share.run(data.sections.count))
                write_part(folder, found, share, data.sections, stage.made_for())
                close(folder)
            _move(folder, place)
        except OSError as error:
            raise write_error(error, place, hint=_ELSEWHERE) from error


def _move(folder: Path, place: Path) -> None:
    old = aside(place)
    with undone(partial(settle_old, old, place)):
        if place.exists():
            place.rename(old)
        folder.rename(place)
        flush_path(place.parent)


def _check_place(place: Path, *, force: bool) -> None:
    """Before the long work."""
    absolute(place.parent)
    if place.is_symlink() or (place.exists() and not place.is_dir()):
        raise ExportError(f"{place} exists and is no folder", hint="give another --out")
    if place.exists() and not force:
        _record(place)
    nearest = next(each for each in place.parents if each.exists())
    if not nearest.is_dir():
        raise ExportError(f"cannot write {place}: {nearest} is a file", hint="give another --out")


def _is_there(place: Path, stage: Calibrate, *, force: bool) -> bool:
    if force or not place.exists():
        return False
    if (found := difference(_record(place), stage.made_for())) is not None:
        raise ExportError(f"{place} is a share of another calibration: {found}", hint=_OTHER)
    return True


def _record(place: Path) -> dict[str, object]:
    try:
        return dict(read_part(place).made_for)
    except ExportError as error:
        raise ExportError(f"{place} exists, and is no share that can be read: {error.message}", hint=_OTHER) from error
