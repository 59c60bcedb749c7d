"""The run-time sizes of a plan, worked out at one batch from the plan's own shape program.

A plan with a batch range has names among its sizes, and says how each follows from the sizes of its inputs: constants
(`memset`), products, whole quotients, sums, and the larger of two, which is a comparison and a choice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from dsr_export.engine_schedule.plan_text import Program, UnreadableSchedule
from dsr_export.engine_schedule.statements import NUMBER, Statement, statement

_INPUT = "_shapeInput.1"  # how the name of an engine's input sizes ends
_STATEMENT = re.compile(r"  \w+=\{ ")
_CONSTANT = re.compile(rf"({NUMBER})i64")
_LARGEST = 1 << 63


def _quotient(a: int, b: int) -> int | None:
    return a // b if a >= 0 and b > 0 else None  # how others are rounded is not known


_OPERATORS: Mapping[str, Callable[[int, int], int | None]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": _quotient,
    "min": min,
    "max": max,
    "eq": lambda a, b: int(a == b),
    "gt": lambda a, b: int(a > b),
    "lt": lambda a, b: int(a < b),
    "geq": lambda a, b: int(a >= b),
    "leq": lambda a, b: int(a <= b),
    "and": lambda a, b: int(a != 0 and b != 0),
}


def run_time_sizes(program: Program, batch: int) -> dict[str, int]:
    """Name -> size where every run-time axis of the inputs is `batch`; names that rest on anything else are left out.

    Raises:
        UnreadableSchedule: a statement that cannot be read, or a name that is given two values.
    """
    sizes: dict[str, int] = {}
    for line in program.lines("shape_main"):
        if _STATEMENT.match(line) is None or line.startswith("  assert={"):  # messages span lines
            continue
        made = statement(line)
        value = _value(made, sizes, batch)
        if value is None:
            continue
        if abs(value) > _LARGEST:  # squared again and again, it would have more digits than there is memory
            raise UnreadableSchedule(f"{made.kind} makes a number that is larger than any size")
        name = made.names("output")[0]
        if name in sizes:
            raise UnreadableSchedule(f"the size {name!r} has two values")
        sizes[name] = value
    return sizes


def _value(made: Statement, sizes: Mapping[str, int], batch: int) -> int | None:
    """None for what is no size, or rests on something unknown."""
    if made.kind == "memset":
        found = _CONSTANT.fullmatch(made.word("src"))
        return int(found[1]) if found else None
    if made.kind not in ("copy", "select", *_OPERATORS):
        return None
    operands = [batch if name.endswith(_INPUT) else sizes.get(name) for name in made.names("input")]
    known = [value for value in operands if value is not None]
    if len(known) != len(operands) or len(known) != {"copy": 1, "select": 3}.get(made.kind, 2):
        return None
    if made.kind == "copy":
        return known[0]
    if made.kind == "select":  # the first is the condition
        return known[1] if known[0] else known[2]
    return _OPERATORS[made.kind](*known)
