"""Reports in which figures are missing, NaN or infinite, and lists are empty."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterator
from typing import Any

BROKEN = (None, math.nan, math.inf, -math.inf)
FIXED = ("schema_version",)
NO_FIGURES = ("problem", "bisection", "token_norms", "manifest_digest", "signed_by")
"""What is null where there is none, and else a text or a table."""


def damaged(report: dict[str, Any], seed: int) -> dict[str, Any]:
    """A copy with one to all of its figures broken, and now and then an empty list or table."""
    rng, made = random.Random(seed), copy.deepcopy(report)
    figures = list(_figures(made))
    for holder, key in rng.sample(figures, rng.choice([1, 2, 5, 20, len(figures)])):
        holder[key] = rng.choice(BROKEN)
    lists = list(_lists(made))
    for holder, key in rng.sample(lists, rng.choice([0, 0, 1, 3])):
        holder[key] = type(holder[key])()
    for row in made["parity"] + made["checks"]:
        row["passed"] = rng.choice([row["passed"], True, False])
    return made


def count_figures(report: dict[str, Any]) -> int:
    """How many there are to be broken."""
    return len(list(_figures(copy.deepcopy(report))))


def with_broken(report: dict[str, Any], place: int, value: float | None) -> dict[str, Any]:
    """A copy with one figure broken."""
    made = copy.deepcopy(report)
    holder, key = list(_figures(made))[place]
    holder[key] = value
    return made


def _figures(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each number and each null, by what holds it."""
    for key, each in _items(value):
        if each is None or (isinstance(each, int | float) and not isinstance(each, bool)):
            if key not in FIXED and not (each is None and key in NO_FIGURES):
                yield value, key
        else:
            yield from _figures(each)


def _lists(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each list of entries and each table by name; of figures only where any number of them is fine."""
    for key, each in _items(value):
        named = isinstance(each, dict) and key in ("engines", "files", "widest", "widest_sums", "roles", "operators")
        if key in ("targets", "before", "after", "replaced"):  # of one length, or never empty
            continue
        if named or isinstance(each, list):
            yield value, key
        yield from _lists(each)


def _items(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, dict):
        return list(value.items())
    return list(enumerate(value)) if isinstance(value, list) else []
