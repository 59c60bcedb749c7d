"""Reading JSON objects strictly: exact keys, exact types, bounded values; every error names the field."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from dsr_export.errors import ExportError, did_you_mean

LONGEST_TEXT = 4096
MOST_ITEMS = 4096

_HINT = "written by another version or by hand; build the bundle again"


@dataclass(frozen=True)
class Fields:
    """One JSON object. `at` says where it lies, for messages: `NAME.dsr/manifest.json: targets[0]`.

    Every method raises ExportError where the field has another type or lies outside its bounds.
    """

    at: str
    values: Mapping[str, Any]

    @classmethod
    def of(cls, value: object, *, at: str, keys: Collection[str]) -> Fields:
        """`value` as an object with exactly `keys`. Raises ExportError naming what is missing or unknown."""
        if not isinstance(value, dict):
            raise ExportError(f"{at} is {_shown(value)}, expected an object", hint=_HINT)
        missing, unknown = sorted(set(keys) - set(value)), sorted(set(value) - set(keys))
        if missing:
            raise ExportError(f"{at} lacks the key {', '.join(map(repr, missing))}", hint=_HINT)
        if unknown:
            near = did_you_mean(unknown[0], keys)
            names = ", ".join(repr(key[:80]) for key in unknown[:5])
            raise ExportError(f"{at} has the unknown key {names}", hint=f"{near} {_HINT}" if near else _HINT)
        return cls(at, value)

    def child(self, key: str, keys: Collection[str]) -> Fields:
        return Fields.of(self.values[key], at=self.name(key), keys=keys)

    def children(self, key: str, keys: Collection[str], *, most: int = MOST_ITEMS) -> list[Fields]:
        """A list of objects, each with exactly `keys`."""
        items = enumerate(self.items(key, most=most))
        return [Fields.of(item, at=f"{self.name(key)}[{index}]", keys=keys) for index, item in items]

    def items(self, key: str, *, most: int = MOST_ITEMS) -> list[Any]:
        value = self.values[key]
        if not isinstance(value, list) or len(value) > most:
            self.fail(key, f"a list of at most {most}")
        return value

    def texts(self, key: str) -> list[str]:
        items = self.items(key)
        if not all(isinstance(item, str) and item and len(item) <= LONGEST_TEXT for item in items):
            self.fail(key, "a list of strings")
        return items

    def mapping(self, key: str) -> dict[str, Any]:
        """Any JSON object; what it holds is not looked at."""
        value = self.values[key]
        if not isinstance(value, dict):
            self.fail(key, "an object")
        return value

    def text(self, key: str, *, longest: int = LONGEST_TEXT) -> str:
        value = self.values[key]
        if not isinstance(value, str) or not value or len(value) > longest:
            self.fail(key, f"a string of 1 to {longest} characters")
        return value

    def choice(self, key: str, options: Collection[str]) -> str:
        value = self.values[key]
        if not isinstance(value, str) or value not in options:
            self.fail(key, f"one of {', '.join(sorted(options))}")
        return value

    def integer(self, key: str, low: int, high: int) -> int:
        """`low <= value <= high`; true and false are no integers."""
        value = self.values[key]
        if type(value) is not int or not low <= value <= high:
            self.fail(key, f"an integer from {low} to {high}")
        return value

    def number(self, key: str, low: float, high: float) -> float:
        """`low <= value <= high`: a figure without bounds overflows in whatever is computed from it."""
        value = self.values[key]
        if type(value) not in (int, float) or not low <= value <= high:
            self.fail(key, f"a number from {low:g} to {high:g}")
        return float(value)

    def name(self, key: str) -> str:
        """Where the field `key` lies, for messages."""
        return f"{self.at}.{key}" if key.isidentifier() else f"{self.at}[{key[:80]!r}]"

    def fail(self, key: str, expected: str) -> NoReturn:
        raise ExportError(f"{self.name(key)} is {_shown(self.values[key])}, expected {expected}", hint=_HINT)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
