"""One table of a TOML file, read strictly: every key is known, every value has its type."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dsr_export.errors import ExportError, did_you_mean
from dsr_export.short_repr import short_repr

LARGEST_NUMBER = sys.float_info.max
LARGEST_INTEGER = 2**31 - 1
LONGEST_NAME = 80  # of what an error repeats


@dataclass(frozen=True)
class Table:
    """Values of one table; `where` names file and table in every error (ExportError)."""

    where: str
    values: Mapping[str, Any]

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def check_keys(self, *known: str) -> None:
        """Refuses any other key, naming the nearest known one."""
        for key in self.values:
            if key not in known:
                names = "known: " + ", ".join(known)
                near = did_you_mean(key[:LONGEST_NAME], known)
                raise ExportError(
                    f"{self.where} has no key '{key[:LONGEST_NAME]}'", hint=f"{near} {names}" if near else names
                )

    def require(self, key: str, example: str) -> Any:
        """The value of a key that must be there."""
        if key not in self.values:
            raise ExportError(f"{self.where} lacks '{key}'", hint=f"for example {key} = {example}")
        return self.values[key]

    def integer(self, key: str, default: int, *, least: int = 0, most: int = LARGEST_INTEGER) -> int:
        """A whole number; without `most`, one that a size can be."""
        value = self.values.get(key, default)
        if type(value) is not int or value < least:
            raise self.wrong(key, value, f"a whole number, at least {least}")
        if value > most:
            raise self.wrong(key, value, f"a whole number up to {most}")
        return value

    def integers(self, key: str, example: str) -> tuple[int, ...]:
        """A list of whole numbers from 0, not empty."""
        value = self.require(key, example)
        if (
            not isinstance(value, list)
            or not value
            or not all(type(v) is int and 0 <= v <= LARGEST_INTEGER for v in value)
        ):
            raise self.wrong(key, value, f"a list of whole numbers from 0, such as {example}")
        return tuple(value)

    def number(self, key: str, example: str) -> float:
        """A finite number."""
        value = self.require(key, example)
        if not is_number(value):
            raise self.wrong(key, value, "a finite number")
        return float(value)

    def word(self, key: str, default: str | None, choices: Sequence[str]) -> Any:
        """One of `choices`; without a default the key must be there."""
        value = self.values.get(key, default)
        if value is None:
            value = self.require(key, f'"{choices[0]}"')
        if value not in choices:
            near = did_you_mean(value[:LONGEST_NAME], choices) if isinstance(value, str) else None
            names = "one of " + ", ".join(choices)
            raise ExportError(
                f"{self.where}: {key} = {short_repr(value)} is unknown", hint=f"{near} {names}" if near else names
            )
        return value

    def text(self, key: str, default: str) -> str:
        value = self.values.get(key, default)
        if not isinstance(value, str) or not value:
            raise self.wrong(key, value, "a text in quotes")
        return value

    def wrong(self, key: str, value: Any, wanted: str) -> ExportError:
        """The error of a value of the wrong kind."""
        return ExportError(f"{self.where}: {key} = {short_repr(value)} is not {wanted}", hint=f"correct '{key}'")


def is_number(value: Any) -> bool:
    """A finite int or float; TOML's booleans, `nan` and `inf` are none."""
    return type(value) in (int, float) and -LARGEST_NUMBER <= value <= LARGEST_NUMBER
