"""The checks of one bundle, each with a name that is known before anything is run: what a test runner needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from dsr_export.backends.opening import Runtime, chosen_engine
from dsr_export.bundle.reader import Bundle
from dsr_export.bundle.signature import PublicKey
from dsr_export.bundle.signing import public_key
from dsr_export.errors import ExportError
from dsr_export.parity.batches import sizes_between
from dsr_export.parity.further import further_checks
from dsr_export.parity.golden_reader import read_golden
from dsr_export.reports.figures import number, reaches
from dsr_export.reports.wording import most_allowed
from dsr_export.verification.claims import NAMES as CLAIMS
from dsr_export.verification.verify import golden_sampler, verify
from graphs.precisions import PRECISIONS

PRECISION = "precision"
ONCE = ("rows", "determinism")
"""What is checked once for each output."""
METRICS = (("SNR", "snr_db", ".1f", " dB"), ("PSNR", "psnr_db", ".1f", " dB"), ("cosine", "cosine", ".6f", ""))


@dataclass(frozen=True, kw_only=True)
class Check:
    """One row of the report that `verify` will give. `check` is None for what is `named`: no comparison of outputs."""

    component: str | None = None
    runtime: str | None = None
    check: str | None = None
    output: str | None = None
    named: str = PRECISION

    @property
    def name(self) -> str:
        prefix = f"{self.component}/" if self.component else ""
        return prefix + (self.named if self.check is None else f"parity[{self.runtime}-{self.check}-{self.output}]")


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

    def planned(self) -> list[Check]:
        """What `verify` will check of the bundle and its components, in its order."""
        models: list[tuple[str | None, Bundle]] = [(None, self.bundle), *self.bundle.components.items()]
        return [check for role, model in models for check in _planned(model, role, self.runtime)]

    @property
    def report(self) -> dict[str, Any]:
        """The report of `verify`. Raises ExportError, the same each time, where it could not be made."""
        if self._error is not None:
            raise self._error
        try:
            return self._report
        except ExportError as error:
            self._error = error
            raise

    @cached_property
    def _report(self) -> dict[str, Any]:
        return verify(self.path, runtime=self.runtime, trust=self._keys)

    def failure(self, check: Check) -> str | None:
        """What is wrong with a check, in a few lines; None where it passed."""
        found = _named(self.report, check) if check.check is None else _row(self.report, check)
        if found is None:
            return f"{self.path}: the verification did not come to {check.name}"
        if found["passed"]:
            return None
        return "\n".join([f"{self.path}: {check.name} failed", *_reasons(found)])

    def unplanned_failures(self) -> list[str]:
        """What failed and is no planned check: nothing may fail without a test that does."""
        planned = set(self.planned())
        rows = [(_check_of(row), row) for row in self.report["parity"]]
        rows += [(_check_named(row), row) for row in self.report["checks"]]
        return [check.name for check, row in rows if not row["passed"] and check not in planned]


def _planned(model: Bundle, role: str | None, runtime: Runtime) -> Iterator[Check]:
    yield from (Check(component=role, named=name) for name in (PRECISION, *CLAIMS))
    golden = read_golden(model)
    names = tuple(golden.cases[max(golden.cases)].outputs)
    sizes = [f"batch-{size}" for size in (*golden.cases, *sizes_between(golden))]
    once = [*ONCE, *(["batch-invariance"] if len(golden.cases) > 1 else [])]
    pairs = [(kind, name) for kind in sizes for name in names] + further_checks(golden)
    pairs += [(kind, name) for kind in once for name in names]
    pairs += [] if golden_sampler(model, golden) is None else [("trajectory", "sample")]
    for name in _runtimes(model, runtime):
        fused = name == "onnxruntime" and PRECISIONS[model.manifest.precision].fused
        own = [*(("fused", each) for each in names if fused), *pairs]
        yield from (Check(component=role, runtime=name, check=check, output=output) for check, output in own)


def _runtimes(model: Bundle, runtime: Runtime) -> list[str]:
    """As their runners are called."""
    if runtime != "auto":
        return [runtime.replace("-", "_")]
    engine = chosen_engine(model, "auto")
    return ["onnxruntime", *([engine.backend] if engine else [])]


def _named(report: dict[str, Any], check: Check) -> dict[str, Any] | None:
    return next((row for row in report["checks"] if _check_named(row) == check), None)


def _check_named(row: dict[str, Any]) -> Check:
    """The share of narrow weights has a name that depends on the precision."""
    name = PRECISION if row["name"].endswith("_weight_fraction") else row["name"]
    return Check(component=row.get("component"), named=name)


def _row(report: dict[str, Any], check: Check) -> dict[str, Any] | None:
    return next((row for row in report["parity"] if _check_of(row) == check), None)


def _check_of(row: dict[str, Any]) -> Check:
    return Check(component=row.get("component"), runtime=row["runtime"], check=row["check"], output=row["output"])


def _reasons(row: dict[str, Any]) -> Iterator[str]:
    """The figures beside their bounds, those out of bounds marked."""
    if row.get("problem") and "value" in row:
        yield f"  {row['problem']}"
    elif "value" in row:
        value, limit = (number(row[key], ".3f") for key in ("value", "limit"))
        yield f"  {row['name']} is {value}, at least {limit} is required"
    elif row["problem"] is not None:
        yield f"  {row['problem']}"
    else:
        bounds = row["tolerance"]
        for title, key, form, unit in METRICS:
            figures = f"{number(row[key], form, unit)}, at least {number(bounds[key], form, unit)}"
            yield _line(title, figures, reaches(row[key], bounds[key]))
        if (most := most_allowed(row)) is not None:
            figures = f"{number(row['max_abs'], '.3g')}, at most {number(most, '.3g')}"
            yield _line("max abs", figures, reaches(most, row["max_abs"]))
        yield f"  against {row['reference']}; the tolerance allows for {bounds['reason']}"


def _line(title: str, figures: str, good: bool) -> str:
    return f"  {title:<8}{figures}" + ("" if good else "   <- out of tolerance")
