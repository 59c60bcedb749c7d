"""The checks of one bundle, each with a name that is known before anything is run: what a test runner needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from dsr_export.backends.runtime_names import Runtime
from dsr_export.bundle.reader import Bundle
from dsr_export.bundle.signature_file import PublicKey
from dsr_export.bundle.signing import public_key
from dsr_export.errors import ExportError
from dsr_export.parity.candidate import Plan
from dsr_export.parity.checks.fused_step import step_rows
from dsr_export.parity.checks.table import TRAJECTORY, planned_rows
from dsr_export.parity.golden.reader import read_golden
from dsr_export.parity.golden.vectors import image_batch
from dsr_export.reports.figures import number, reaches
from dsr_export.reports.record import Check, Picture, Report, Row
from dsr_export.reports.wording import most_allowed, picture_shortfalls
from dsr_export.verification.model_checks import VERIFIED
from dsr_export.verification.runtime_checks import golden_sampler
from dsr_export.verification.verify import runtimes_of, verified
from graphs.precisions import PRECISIONS

Key = tuple[str | None, ...]
"""Component, and then what tells a check from all others of it."""


@dataclass(frozen=True)
class Planned:
    """One check that `verify` will come to: the name of its test, and the key of what its report has of it."""

    name: str
    key: Key

    @classmethod
    def check(cls, component: str | None, title: str, name: str) -> Planned:
        """One that compares no outputs, by its title and by what the report calls it."""
        return cls(_of(component) + title, (component, name))

    @classmethod
    def row(cls, component: str | None, runtime: str, check: str, output: str) -> Planned:
        """A comparison."""
        return cls(f"{_of(component)}parity[{runtime}-{check}-{output}]", (component, runtime, check, output))


@dataclass
class BundleChecks:
    """The bundle at `path` and its checks; `trust` are files of public keys, of which one must have signed it, if any.

    Opening verifies every file; the numbers are computed once, when asked.
    """

    path: Path
    runtime: Runtime
    trust: Sequence[Path] = ()
    _error: ExportError | None = field(default=None, init=False)

    @cached_property
    def problem(self) -> ExportError | None:
        """Why the bundle cannot be opened."""
        try:
            self.bundle  # noqa: B018 (opened for its errors)
        except ExportError as error:
            return error
        return None

    @cached_property
    def bundle(self) -> Bundle:
        return Bundle.open(self.path, trust=self._keys)

    @cached_property
    def _keys(self) -> tuple[PublicKey, ...]:
        return tuple(public_key(path) for path in self.trust)

    def planned(self) -> list[Planned]:
        """What `verify` will check of the bundle and its components, in its order."""
        models: list[tuple[str | None, Bundle]] = [(None, self.bundle), *self.bundle.components.items()]
        return [check for role, model in models for check in planned_checks(model, role, self.runtime)]

    @property
    def report(self) -> Report:
        """The report of `verify`. Raises ExportError, the same each time, where it could not be made."""
        if self._error is not None:
            raise self._error
        try:
            return self._report
        except ExportError as error:
            self._error = error
            raise

    @cached_property
    def _report(self) -> Report:
        return verified(self.path, runtime=self.runtime, trust=self._keys)

    def failure(self, check: Planned) -> str | None:
        """What is wrong with a check, in a few lines; None where it passed."""
        found = [part for planned, part in reported(self.report) if planned.key == check.key]
        if not found:
            return f"{self.path}: the verification did not come to {check.name}"
        failed = [part for part in found if not part.passed]
        lines = [line for part in failed for line in reasons(part)]
        return "\n".join([f"{self.path}: {check.name} failed", *lines]) if failed else None

    def unplanned_failures(self) -> list[str]:
        """What failed and is no planned check: nothing may fail without a test that does."""
        keys = {check.key for check in self.planned()}
        failed = [planned for planned, part in reported(self.report) if not part.passed]
        unseen = dict.fromkeys(planned.name for planned in failed if planned.key not in keys)
        return list(unseen) if failed or self.report.passed else ["the verdict of the report"]


def planned_checks(model: Bundle, role: str | None, runtime: Runtime) -> Iterator[Planned]:
    """What `verify` will check of one model, from the tables that it walks."""
    precision = model.manifest.precision
    yield from (Planned.check(role, each.title, each.name(precision)) for each in VERIFIED)
    golden = read_golden(model)
    plan = Plan(golden=golden, sampler=golden_sampler(model, golden))
    for name in runtimes_of(model, runtime).values():
        fused = name == "onnxruntime" and PRECISIONS[precision].fused
        yield from (Planned.row(role, name, *pair) for pair in planned_rows(plan, fused=fused))
        if model.step_graph is not None and plan.sampler is not None:
            images = image_batch(model.manifest.batch_range(), plan.sampler)
            yield from (Planned.row(role, name, *pair) for pair in step_rows(golden, images).values())


def reported(report: Report) -> Iterator[tuple[Planned, Row | Check | Picture]]:
    """What a report holds, each by the check it is of. A picture is of the trajectory that ends in it."""
    for row in report.parity:
        yield Planned.row(row.component, row.runtime, row.check, row.output), row
    for picture in report.images:
        yield Planned.row(None, picture.runtime, *TRAJECTORY), picture
    for check in report.checks:
        yield Planned.check(check.component, check.name, check.name), check


def reasons(part: Row | Check | Picture) -> Iterator[str]:
    """The figures beside their bounds, those out of bounds marked."""
    if isinstance(part, Picture):
        yield f"  {picture_shortfalls(part)}"
    elif part.problem is not None:
        yield f"  {part.problem}"
    elif isinstance(part, Check):
        yield f"  {part.name} is {number(part.value, '.3f')}, at least {number(part.limit, '.3f')} is required"
    else:
        yield from _figures(part)


def _figures(row: Row) -> Iterator[str]:
    bounds = row.tolerance
    metrics = (
        ("SNR", row.snr_db, bounds.snr_db, ".1f", " dB"),
        ("PSNR", row.psnr_db, bounds.psnr_db, ".1f", " dB"),
        ("cosine", row.cosine, bounds.cosine, ".6f", ""),
    )
    for title, value, least, form, unit in metrics:
        yield _line(title, f"{number(value, form, unit)}, at least {number(least, form, unit)}", reaches(value, least))
    if (most := most_allowed(row)) is not None:
        figures = f"{number(row.max_abs, '.3g')}, at most {number(most, '.3g')}"
        yield _line("max abs", figures, reaches(most, row.max_abs))
    yield f"  against {row.reference}; the tolerance allows for {bounds.reason}"


def _of(component: str | None) -> str:
    return f"{component}/" if component else ""


def _line(title: str, figures: str, good: bool) -> str:
    return f"  {title:<8}{figures}" + ("" if good else "   <- out of tolerance")
