"""Reading what any version wrote into a report: names must be there, a figure or a sentence may be missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from dsr_export.errors import ExportError
from dsr_export.short_repr import short_repr


@dataclass(frozen=True)
class Entry:
    """One JSON object of a report; `at` says where it lies, for messages."""

    at: str
    values: Mapping[str, Any]

    def refuse(self, key: str, expected: str) -> NoReturn:
        """Raises ExportError."""
        value = short_repr(self.values[key]) if key in self.values else "missing"
        raise ExportError(
            f"{self.at}: {key} is {value}, expected {expected}",
            hint="it was written by another version or by hand; build the bundle again",
        )


def text_in(entry: Entry, key: str) -> str:
    """Raises ExportError where it is none."""
    value = entry.values.get(key)
    return value if isinstance(value, str) else entry.refuse(key, "a text")


def words(entry: Entry, key: str) -> str | None:
    """A text, or None."""
    value = entry.values.get(key)
    return value if isinstance(value, str) else None


def as_figure(value: Any) -> float | None:
    """A number as it is, NaN and infinities too; None for anything else."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def number_in(entry: Entry, key: str) -> float | None:
    """A number, or None."""
    return as_figure(entry.values.get(key))


def table_in(entry: Entry, key: str) -> Mapping[str, Any]:
    """An object, empty where there is none. Raises ExportError where it is anything else."""
    return mapping(entry, key).values if key in entry.values else {}


def is_true(entry: Entry, key: str) -> bool:
    """Only where it says so."""
    return entry.values.get(key) is True


def mapping(entry: Entry, key: str) -> Entry:
    """An object within it. Raises ExportError where it is none."""
    value = entry.values.get(key)
    return Entry(f"{entry.at}.{key}", value) if isinstance(value, Mapping) else entry.refuse(key, "an object")


def entries(entry: Entry, key: str) -> list[Entry]:
    """The objects of a list, none where there is no list. Raises ExportError where it holds anything else."""
    value = entry.values.get(key, [])
    if not isinstance(value, list | tuple) or not all(isinstance(each, Mapping) for each in value):
        entry.refuse(key, "a list of objects")
    return [Entry(f"{entry.at}.{key}[{index}]", each) for index, each in enumerate(value)]


def texts(entry: Entry, key: str) -> tuple[str, ...]:
    """A list of texts, empty where there is none. Raises ExportError where it is anything else."""
    value = entry.values.get(key, [])
    if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
        entry.refuse(key, "a list of texts")
    return tuple(value)


def section(bundle: str, sections: Mapping[str, Any], key: str) -> Entry | None:
    """The section `key` of a report of `bundle`, None where there is none. Raises ExportError where it is no object."""
    value = sections.get(key)
    if value is None or value == {}:
        return None
    return mapping(Entry(f"report.json of {bundle}", sections), key)


def numbers(entry: Entry, key: str) -> list[float | None]:
    """A list of figures, empty where there is none. Raises ExportError where it is anything else."""
    value = entry.values.get(key, [])
    return [as_figure(each) for each in value] if isinstance(value, list | tuple) else entry.refuse(key, "a list")


def grid(entry: Entry, key: str) -> list[list[float | None]]:
    """Rows of figures, all equally long and not empty. Raises ExportError where it is anything else."""
    value = entry.values.get(key)
    if not isinstance(value, list | tuple) or not all(isinstance(row, list | tuple) and row for row in value):
        entry.refuse(key, "rows of figures")
    if len({len(row) for row in value}) != 1:
        entry.refuse(key, "rows of one length")
    return [[as_figure(each) for each in row] for row in value]
