"""Which text may reach an evaluator."""

from __future__ import annotations

import pytest

from dsr_export.program_archive.expressions import is_arithmetic

HONEST = [
    "Symbol('s17', positive=True, integer=True)",
    "Mul(Integer(2), Symbol('s17', positive=True, integer=True))",
    "Add(Mul(Integer(-1), Symbol('s0', integer=True)), Integer(256))",
    "FloorDiv(Symbol('s0', positive=True, integer=True), Integer(2))",
    "Pow(Symbol('s0', positive=True, integer=True), Integer(2))",
    "Mul(Rational(1, 2), Symbol('s0'))",
    "Mul(Float('0.5', precision=53), ToFloat(Symbol('s0')))",
    "Max(Integer(1), s0)",
    "s0**2 + 4*s0 - (s0//2) % 3",
    "L['x'].size()[0] == L['y'].size()[0]",
    "L['args'][0][0].size()[1] <= 64 and not L['x'].stride(0) == 2",
]
REFUSED = [
    "__import__('os')",
    "open('f', 'w')",
    "L['x'].tofile('f')",
    "L['x'].__class__",
    "s0.size",
    "(lambda: 0)()",
    "[s0 for s0 in L]",
    "9**9**9",
    "(9**8)**8",
    "Pow(Add(Pow(s0, 8), 1), 8)",
    "Integer(10)**Integer(10**9)",
    "Pow(Integer(10), s0)",
    "s0**-9",
    "PowByNatural(Integer(2), Integer(1000000))",
    "1 << 30",
    "LShift(1, 30)",
    "'a' * 1000000",
    "Symbol('a' * 1000)",
    "Symbol('s', positive='x')",
    "Symbol('u99999999')",
    "Integer('9' * 10)",
    "Integer(" + "9" * 5000 + ")",
    "Float('1e999999')",
    "Float('0.1', precision=1000000000)",
    "Max(*L)",
    "Max(1, **L)",
    "f'{s0}'",
    "s0 in L",
    "1e999",
    "1j",
    "s0 if s0 else 1",
    "",
    "(" * 5000,
    "\0",
    "+".join(["s0"] * 400),
]


@pytest.mark.parametrize("text", HONEST)
def test_shapes_and_guards_are_taken(text: str) -> None:
    assert is_arithmetic(text)


@pytest.mark.parametrize("text", REFUSED)
def test_anything_else_is_not(text: str) -> None:
    assert not is_arithmetic(text)
