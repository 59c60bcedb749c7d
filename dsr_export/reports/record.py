"""`Report`: what a build or a verification found out. JSON, page, JUnit, Markdown and terminal are made of it alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from dsr_export.reports.reading import (
    Entry,
    as_figure,
    entries,
    is_true,
    mapping,
    number_in,
    section,
    table_in,
    texts,
    words,
)
from dsr_export.reports.record_parts import Check, Component, Figure, Json, NotRun, Picture, Row, StageTime

__all__ = ["SCHEMA_VERSION", "Check", "Component", "NotRun", "Picture", "Report", "Row", "StageTime", "all_passed"]
SCHEMA_VERSION = 1
OF_RECORDS = ("stages", "parity", "images", "checks", "engines_not_run")
OF_VALUES = ("targets", "from_build", "trajectory_snr_db", "samples")


@dataclass(frozen=True, kw_only=True)
class Report:
    """Every field is the key of its name.

    `sections` are those that a single stage fills and no verdict rests on (the model, rewrites, types, ranges, INT8,
    engines, sites, ...): JSON values as that stage made them, each under a key of its own. `lacks` names the keys that
    a report which was read did not have: other versions write fewer, and one that is written back gets none of them.
    `manifest_digest` is None in a build's own report, which the manifest lists.
    """

    bundle: str
    passed: bool
    precision: str
    target: str
    targets: tuple[str, ...]
    stages: tuple[StageTime, ...]
    parity: tuple[Row, ...]
    images: tuple[Picture, ...]
    checks: tuple[Check, ...]
    engines_not_run: tuple[NotRun, ...]
    components: Mapping[str, Component]
    trajectory_snr_db: tuple[Figure, ...]
    samples: tuple[Json, ...]
    bisection: Mapping[str, Any] | None
    files: Mapping[str, Figure]
    tools: Mapping[str, str]
    peak_rss_bytes: Figure
    manifest_digest: str | None = None
    signed_by: str | None = None
    from_build: tuple[str, ...] = ()
    schema_version: int = SCHEMA_VERSION
    sections: Mapping[str, Any] = field(default_factory=dict)
    lacks: frozenset[str] = frozenset()

    def as_dict(self) -> Json:
        """As JSON values, but for figures that are not finite: `plain_json.plain` makes them null."""
        own = {name: getattr(self, name) for name in KEYS if name not in self.lacks}
        own |= {key: [each.as_dict() for each in own[key]] for key in OF_RECORDS if key in own}
        own |= {key: list(own[key]) for key in OF_VALUES if key in own}
        if "components" in own:
            own["components"] = {role: asdict(each) for role, each in self.components.items()}
        return {**self.sections, **own}

    @classmethod
    def read(cls, values: Mapping[str, Any], *, where: str = "report.json") -> Report:
        """What any version wrote. Raises ExportError, naming `where` and the key, where rows or checks are none."""
        entry = Entry(where, values)
        return cls(
            stages=tuple(map(StageTime.read, entries(entry, "stages"))),
            parity=tuple(map(Row.read, entries(entry, "parity"))),
            images=tuple(map(Picture.read, entries(entry, "images"))),
            checks=tuple(map(Check.read, entries(entry, "checks"))),
            engines_not_run=tuple(map(NotRun.read, entries(entry, "engines_not_run"))),
            bundle=words(entry, "bundle") or "",
            precision=words(entry, "precision") or "",
            target=words(entry, "target") or "",
            targets=texts(entry, "targets"),
            passed=is_true(entry, "passed"),
            components=_components(entry),
            trajectory_snr_db=_growth(values.get("trajectory_snr_db")),
            samples=tuple(dict(each.values) for each in entries(entry, "samples")),
            bisection=mapping(entry, "bisection").values if values.get("bisection") is not None else None,
            files={name: as_figure(size) for name, size in table_in(entry, "files").items()},
            tools={name: str(version) for name, version in table_in(entry, "tools").items()},
            peak_rss_bytes=number_in(entry, "peak_rss_bytes"),
            manifest_digest=words(entry, "manifest_digest"),
            signed_by=words(entry, "signed_by"),
            from_build=texts(entry, "from_build"),
            schema_version=_version(values.get("schema_version")),
            sections={key: value for key, value in values.items() if key not in KEYS},
            lacks=frozenset(KEYS) - set(values),
        )

    def section(self, key: str) -> Entry | None:
        """What a single stage tells, None where it tells nothing. Raises ExportError where it is no object."""
        return section(self.bundle, self.sections, key)

    def changed(self, **other: Any) -> Report:
        """With other values of some fields; those are in it, whatever it lacked."""
        return replace(self, **other, lacks=self.lacks - set(other))


KEYS = tuple(each.name for each in fields(Report) if each.name not in ("sections", "lacks"))
"""Of the fields, which are all but the sections."""


def all_passed(rows: Sequence[Row], checks: Iterable[Check], images: Iterable[Picture]) -> bool:
    """The verdict: something was compared, and nothing that was looked at failed."""
    verdicts = [*(each.passed for each in rows), *(each.passed for each in checks), *(each.passed for each in images)]
    return bool(rows) and all(verdicts)


def _components(entry: Entry) -> dict[str, Component]:
    parts = Entry(f"{entry.at}.components", table_in(entry, "components"))
    return {role: Component.read(mapping(parts, role)) for role in parts.values}


def _growth(steps: object) -> tuple[Figure, ...]:
    """Of a denoiser; empty where there is none."""
    return tuple(map(as_figure, steps)) if isinstance(steps, list | tuple) else ()


def _version(value: object) -> int:
    return value if isinstance(value, int) else SCHEMA_VERSION
