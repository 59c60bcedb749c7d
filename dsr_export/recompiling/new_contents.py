"""What a bundle holds once an engine was added to it: manifest, report and files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dsr_export.bundle.component_entries import component_path
from dsr_export.bundle.components import component_entry
from dsr_export.bundle.engines import engine_entry
from dsr_export.bundle.manifest import FileEntry, Manifest
from dsr_export.bundle.paths import MANIFEST, plan_path, step_plan_path
from dsr_export.bundle.reader import REPORT, Bundle
from dsr_export.bundle.sbom import SBOM, sbom
from dsr_export.bundle.writer import Content
from dsr_export.parity.checks.table import ParityReport
from dsr_export.reports.record import Picture, Report, Row, StageTime, all_passed
from dsr_export.reports.renderings import report_files
from dsr_export.storage.disk import Recorded
from dsr_export.storage.made_with import tool_versions
from dsr_export.verification.model_checks import passed_when_built
from graphs.digests import bytes_digest
from graphs.targets import Target

if TYPE_CHECKING:
    from dsr_export.backends.tensorrt.build import Engine

Contents = dict[str, Content]


@dataclass(frozen=True, kw_only=True)
class CompiledStep:
    """The engine that holds a whole step of the sampler, and its verdict."""

    engine: Engine
    parity: ParityReport | None


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """A new engine, the build key of the bundle around it, and its verdict; `not_run` says why there is none.

    `kept` is what was measured of it and of the engine of another bundle, where one of both was to be kept.
    """

    target: Target
    engine: Engine
    step: CompiledStep | None = None
    key: str
    seconds: float
    parity: ParityReport | None
    not_run: str | None
    kept: Mapping[str, Any] | None = None

    @property
    def passed(self) -> bool:
        """None of its engines failed: the model's, and the one of a whole step. What was not run has not failed."""
        found = (self.parity, None if self.step is None else self.step.parity)
        return all(each is None or each.passed for each in found)

    def summary(self) -> dict[str, Any]:
        """For the report."""
        return {
            "engine": plan_path(self.target.name),
            "plan_bytes": len(self.engine.plan),
            "tool": self.engine.facts["tool"],
            "version": self.engine.facts["version"],
            "seconds": round(self.seconds, 3),
            "verified": self.parity is not None,
            "not_run": self.not_run,
            "tools": tool_versions(),
            **({} if self.kept is None else {"keep_if_faster": dict(self.kept)}),
        }


def contents_with_engine(bundle: Bundle, made: Compiled) -> tuple[Manifest, Contents]:
    """The bundle with the engine; the manifest lists its files, as one inside another bundle must."""
    old, name = bundle.manifest, made.target.name
    entry = engine_entry(made.target, made.engine.facts)
    contents = _files(bundle)
    contents[plan_path(name)] = bytes(made.engine.plan)
    if made.step is not None:
        contents[step_plan_path(name)] = bytes(made.step.engine.plan)
    contents |= _report_files(old, _report(bundle, made))
    manifest = replace(
        old,
        targets=(*(each for each in old.targets if each.name != name), entry),
        build_key=made.key,
        provenance=_provenance(old, name, made),
    )
    contents |= _sbom_file(manifest, contents)
    return replace(manifest, files={path: _entry(old, path, content) for path, content in contents.items()}), contents


def contents_with_component(
    bundle: Bundle, role: str, manifest: Manifest, contents: Contents, made: Compiled
) -> tuple[Manifest, Contents]:
    """The bundle around a component that now has `manifest` and `contents`."""
    folder, old = component_path(role), bundle.manifest
    outer = _files(bundle)
    outer |= {f"{folder}/{name}": content for name, content in contents.items()}
    outer[f"{folder}/{MANIFEST}"] = manifest.to_bytes()
    outer |= _report_files(old, _outer_report(bundle, role, contents, made))
    changed = replace(
        old,
        build_key=made.key,
        provenance=_provenance(old, f"{role}/{made.target.name}", made),
        components={**old.components, role: component_entry(role, manifest)},
        files={},
    )
    return changed, outer | _sbom_file(changed, outer)


def _files(bundle: Bundle) -> Contents:
    return {name: Recorded(bundle.file(name), entry.sha256) for name, entry in bundle.manifest.files.items()}


def _entry(old: Manifest, path: str, content: Content) -> FileEntry:
    if isinstance(content, bytes):
        return FileEntry(sha256=bytes_digest(content), size=len(content))
    return old.files[path]


def _provenance(old: Manifest, name: str, made: Compiled) -> dict[str, Any]:
    """Where the engine came from: the bundle it was compiled from, by the digest that stands for every byte of it."""
    entry = {"from": old.digest, "tool": made.engine.facts["tool"], "version": made.engine.facts["version"]}
    return {**old.provenance, "compiled": {**old.provenance.get("compiled", {}), name: entry}}


def _report(bundle: Bundle, made: Compiled) -> Report:
    """The build's report, and the engine's facts, rows and pictures. `passed` is the verdict over what is in it now."""
    built, name = _built(bundle), made.target.name
    rows, images = (*_kept_rows(built, bundle, made), *_new_rows(made)), _images(built, bundle, made)
    engines = {**built.sections.get("engines", {}), name: dict(made.engine.facts)}
    return built.changed(
        targets=(*(each for each in built.targets if each != name), name),
        parity=rows,
        images=images,
        stages=(*built.stages, _stage(name, made)),
        passed=all_passed(rows, built.checks, images) and made.passed,
        sections={
            **built.sections,
            "engines": engines,
            "compiled": _compiled(built, name, made),
            **_fused_step(built, name, made),
        },
    )


def _fused_step(built: Report, name: str, made: Compiled) -> dict[str, Any]:
    """The section of what holds a whole step, with the new engine."""
    if made.step is None:
        return {}
    old = built.sections.get("fused_step", {})
    return {"fused_step": {**old, "engines": {**old.get("engines", {}), name: dict(made.step.engine.facts)}}}


def _built(bundle: Bundle) -> Report:
    return Report.read(bundle.report(), where=str(bundle.file(REPORT)))


def _kept_rows(built: Report, bundle: Bundle, made: Compiled) -> list[Row]:
    """Without those of the engine that is replaced."""
    name, backend, alone = made.target.name, made.target.backend, _is_alone(bundle, made)

    def stale(row: Row) -> bool:
        of = row.target or (name if alone else None)  # rows of a build do not name their engine
        return row.runtime == backend and of in (name, step_plan_path(made.target.name))

    return [row for row in built.parity if not stale(row)]


def _new_rows(made: Compiled) -> list[Row]:
    step = None if made.step is None else made.step.parity
    found = {made.target.name: made.parity, step_plan_path(made.target.name): step}
    return [Row.of(row, target=of) for of, parity in found.items() if parity is not None for row in parity.rows]


def _images(built: Report, bundle: Bundle, made: Compiled) -> tuple[Picture, ...]:
    """Pictures do not name their engine: those of the backend go where it is the only one, or is drawn anew."""
    new = () if made.parity is None else tuple(map(Picture.of, made.parity.images))
    replaced = bool(new) or _is_alone(bundle, made)
    return (*(each for each in built.images if each.runtime != made.target.backend or not replaced), *new)


def _is_alone(bundle: Bundle, made: Compiled) -> bool:
    """Whether the bundle holds this engine, and no other of its backend."""
    return {each.name for each in bundle.manifest.targets if each.backend == made.target.backend} == {made.target.name}


def _outer_report(bundle: Bundle, role: str, contents: Contents, made: Compiled) -> Report:
    """The report of the bundle around a component, which passes as far as the component now does."""
    built, inner = _built(bundle), contents[REPORT]
    passed = isinstance(inner, bytes) and json.loads(inner)["passed"] is True
    others = (each for each in built.checks if each.component != role)
    checks = (*others, passed_when_built(role, passed))
    name = f"{role}/{made.target.name}"
    return built.changed(
        checks=checks,
        stages=(*built.stages, _stage(name, made)),
        passed=all_passed(built.parity, checks, built.images),
        sections={**built.sections, "compiled": _compiled(built, name, made)},
    )


def _compiled(built: Report, name: str, made: Compiled) -> dict[str, Any]:
    return {**built.sections.get("compiled", {}), name: made.summary()}


def _stage(name: str, made: Compiled) -> StageTime:
    return StageTime(name=f"compile-{name}", seconds=round(made.seconds, 3), cached=False)


def _sbom_file(changed: Manifest, contents: Contents) -> Contents:
    """As the report's files: a bundle from before there was one gets none."""
    return {SBOM: sbom(changed, contents)} if SBOM in contents else {}


def _report_files(old: Manifest, report: Report) -> Contents:
    """The report in the forms that the bundle has: one from before there was a page gets none."""
    return {name: content for name, content in report_files(report).items() if name in old.files}
