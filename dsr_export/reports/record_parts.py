"""The parts of a report. Each is written by `as_dict`, and read back from what any version wrote by `read`.

A figure that was not measured is None; one that is NaN or infinite stays what it is until it is written as JSON.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from dsr_export.reports.reading import Entry, is_true, mapping, number_in, text_in, words

if TYPE_CHECKING:  # they need numpy, and `--help` does not
    from dsr_export.parity.checks.pictures import PictureRow
    from dsr_export.parity.rows import ParityRow

Json = dict[str, Any]
Figure = float | None


def _as_said(record: Any, *optional: str) -> Json:
    """The fields of a record, without those of `optional` that are None."""
    plain = {each.name: getattr(record, each.name) for each in fields(record)}
    return {name: value for name, value in plain.items() if name not in optional or value is not None}


@dataclass(frozen=True, kw_only=True)
class StageTime:
    """A stage of the build or the verification: how long it took, and the largest resident size of the process."""

    name: str
    seconds: Figure
    cached: bool
    peak_rss_bytes: Figure = None

    def as_dict(self) -> Json:
        return _as_said(self, "peak_rss_bytes")

    @classmethod
    def read(cls, entry: Entry) -> StageTime:
        figures = {key: number_in(entry, key) for key in ("seconds", "peak_rss_bytes")}
        return cls(name=text_in(entry, "name"), **figures, cached=is_true(entry, "cached"))


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a row is held to; `max_abs` is None for no bound."""

    max_abs: Figure
    cosine: Figure
    psnr_db: Figure
    snr_db: Figure
    reason: str

    @classmethod
    def read(cls, entry: Entry) -> Bounds:
        figures = {key: number_in(entry, key) for key in ("max_abs", "cosine", "psnr_db", "snr_db")}
        return cls(**figures, reason=words(entry, "reason") or "")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One comparison. `component` is None for the model itself; `target` names the engine that `compile` checked, or
    the graph of engines beside `model.onnx`."""

    check: str
    output: str
    runtime: str
    reference: str
    max_abs: Figure
    mean_abs: Figure
    cosine: Figure
    psnr_db: Figure
    snr_db: Figure
    range: Figure
    problem: str | None
    tolerance: Bounds
    passed: bool
    non_finite: Figure = 0
    target: str | None = None
    component: str | None = None

    @property
    def ran(self) -> str:
        """The runtime, and what was run where it is not what the runtime is for."""
        return self.runtime if self.target is None else f"{self.runtime} ({self.target})"

    def as_dict(self) -> Json:
        """Without `non_finite` where there is nothing to say about it."""
        plain = _as_said(self, "target", "component") | {"tolerance": asdict(self.tolerance)}
        return plain if self.non_finite != 0 else {key: each for key, each in plain.items() if key != "non_finite"}

    @classmethod
    def of(cls, row: ParityRow, *, component: str | None = None, target: str | None = None) -> Row:
        return cls.read(Entry("a row", row.as_dict() | {"component": component, "target": target}))

    @classmethod
    def read(cls, entry: Entry) -> Row:
        return cls(
            check=text_in(entry, "check"),
            output=text_in(entry, "output"),
            runtime=text_in(entry, "runtime"),
            reference=words(entry, "reference") or "",
            max_abs=number_in(entry, "max_abs"),
            mean_abs=number_in(entry, "mean_abs"),
            cosine=number_in(entry, "cosine"),
            psnr_db=number_in(entry, "psnr_db"),
            snr_db=number_in(entry, "snr_db"),
            range=number_in(entry, "range"),
            problem=words(entry, "problem"),
            tolerance=Bounds.read(mapping(entry, "tolerance")),
            passed=is_true(entry, "passed"),
            non_finite=number_in(entry, "non_finite") if "non_finite" in entry.values else 0,
            target=words(entry, "target"),
            component=words(entry, "component"),
        )


@dataclass(frozen=True, kw_only=True)
class Check:
    """What was checked that is no comparison of outputs. `problem` says what is wrong where no figure does, `target`
    which engine it is of: two of one bundle have checks of the same name."""

    name: str
    value: Figure
    limit: Figure
    passed: bool
    problem: str | None = None
    component: str | None = None
    target: str | None = None

    @property
    def of(self) -> str:
        """The name, and the engine where it is of one."""
        return self.name if self.target is None else f"{self.name} ({self.target})"

    def as_dict(self) -> Json:
        return _as_said(self, "problem", "component", "target")

    @classmethod
    def read(cls, entry: Entry) -> Check:
        return cls(
            name=text_in(entry, "name"),
            value=number_in(entry, "value"),
            limit=number_in(entry, "limit"),
            passed=is_true(entry, "passed"),
            problem=words(entry, "problem"),
            component=words(entry, "component"),
            target=words(entry, "target"),
        )


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One image at the end of a trajectory, and what it has to reach."""

    runtime: str
    image: Figure
    psnr_db: Figure
    ssim: Figure
    psnr_floor_db: Figure
    ssim_floor: Figure
    passed: bool

    def as_dict(self) -> Json:
        return asdict(self)

    @classmethod
    def of(cls, row: PictureRow) -> Picture:
        return cls(**row.as_dict())

    @classmethod
    def read(cls, entry: Entry) -> Picture:
        figures = {key: number_in(entry, key) for key in ("image", "psnr_db", "ssim", "psnr_floor_db", "ssim_floor")}
        return cls(runtime=text_in(entry, "runtime"), **figures, passed=is_true(entry, "passed"))


@dataclass(frozen=True, kw_only=True)
class NotRun:
    """An engine that no figure is of."""

    target: str
    engine: str
    reason: str
    component: str | None = None

    def as_dict(self) -> Json:
        return _as_said(self, "component")

    @classmethod
    def read(cls, entry: Entry) -> NotRun:
        names = {key: text_in(entry, key) for key in ("target", "engine", "reason")}
        return cls(**names, component=words(entry, "component"))


@dataclass(frozen=True, kw_only=True)
class Component:
    """What a model beside the bundle's own is."""

    name: str
    precision: str

    @classmethod
    def read(cls, entry: Entry) -> Component:
        return cls(name=text_in(entry, "name"), precision=text_in(entry, "precision"))
