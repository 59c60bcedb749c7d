"""Values of others in messages: cut short, and of any size. Python prints no integer of more than 4,300 digits."""

from __future__ import annotations

import reprlib

MOST_BITS = 1024


class _Short(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        return f"an integer of {x.bit_length()} bits" if x.bit_length() > MOST_BITS else super().repr_int(x, level)


def short_repr(value: object, *, levels: int = 6) -> str:
    """`repr` of a value that may be of any length or depth."""
    short = _Short()
    short.maxlevel = levels
    return short.repr(value)
