"""Shape expressions and guards: text that torch evaluates, as sympy or as Python. Only small arithmetic is taken."""

from __future__ import annotations

import ast
import re

_LONGEST = 4000
_MOST_NODES = 300
_LARGEST = 1 << 63
_LARGEST_EXPONENT = 8  # torch expands what it compares: a sum to the power of n has about n**terms terms
_POWERS = frozenset({"Pow", "PowByNatural", "FloatPow"})
_FUNCTIONS = re.compile(
    "Pow|PowByNatural|FloatPow|Add|Mul|Max|Min|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|ModularIndexing|Where|IntTrueDiv"
    "|FloatTrueDiv|TruncToInt|TruncToFloat|CeilToInt|FloorToInt|RoundToInt|ToFloat|Abs|Eq|Ne|Lt|Le|Gt|Ge|And|Or|Not"
    "|Identity"
)
_NUMBERS = frozenset({"Integer", "Float", "Rational"})
_METHODS = frozenset({"size", "stride", "dim", "numel", "storage_offset"})
_DIGITS = re.compile(r"-?\d{1,20}(\.\d{0,40})?(e[+-]?\d{1,2})?")
_ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod)


def is_symbol(name: str) -> bool:
    """A name that a size may have: torch counts up to the number at its end."""
    return re.fullmatch(r"(?!__)[A-Za-z_]\w{0,63}", name) is not None and re.search(r"\d{5}$", name) is None


def is_arithmetic(text: str) -> bool:
    """Whether `text` is symbols, small numbers, sizes of inputs and the functions that shape expressions are made of.

    No other call, no dunder, no string that is computed with, no power that grows: evaluating it takes little.
    """
    if len(text) > _LONGEST:
        return False
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return "__" not in text and sum(1 for _ in ast.walk(tree)) <= _MOST_NODES and _is_value(tree.body)


def _is_value(node: ast.AST) -> bool:
    match node:
        case ast.Constant(value=value):
            return _is_number(value)
        case ast.Name(id=name):
            return is_symbol(name)
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() | ast.Not(), operand=value):
            return _is_value(value)
        case ast.BinOp(left=base, op=ast.Pow(), right=exponent):
            return _is_small_power(base, exponent)
        case ast.BinOp(left=left, op=op, right=right):
            return isinstance(op, _ARITHMETIC) and _is_value(left) and _is_value(right)
        case ast.BoolOp(values=values):
            return all(map(_is_value, values))
        case ast.Compare(left=left, ops=ops, comparators=values):
            known = not any(isinstance(op, ast.In | ast.NotIn | ast.Is | ast.IsNot) for op in ops)
            return known and all(map(_is_value, [left, *values]))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
            return _is_call(name, args, keywords)
        case _:
            return _is_size(node)


def _is_number(value: object) -> bool:
    if isinstance(value, float):
        return value == value and abs(value) < 1e300
    return isinstance(value, bool | int) and abs(value) <= _LARGEST


def _is_call(name: str, args: list[ast.expr], keywords: list[ast.keyword]) -> bool:
    if name == "Symbol":
        named = [arg.value for arg in args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
        assumed = all(word.arg and isinstance(_constant(word.value), bool) for word in keywords)
        return len(args) == 1 == len(named) and is_symbol(named[0]) and assumed
    if name in _NUMBERS:
        return 1 <= len(args) <= 2 and all(map(_is_literal, args)) and all(map(_is_precision, keywords))
    if name in _POWERS:
        return len(args) == 2 and not keywords and _is_small_power(*args)
    plain = all(word.arg == "evaluate" and isinstance(_constant(word.value), bool) for word in keywords)
    return _FUNCTIONS.fullmatch(name) is not None and plain and all(map(_is_value, args))


def _is_literal(node: ast.expr) -> bool:
    value = _constant(node)
    return _DIGITS.fullmatch(value) is not None if isinstance(value, str) else _is_number(value)


def _is_precision(word: ast.keyword) -> bool:
    value = _constant(word.value)
    return word.arg in ("precision", "dps") and type(value) is int and 0 < value <= 256


def _constant(node: ast.expr) -> object:
    """The value of a literal, signed or not; None for anything else."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _constant(node.operand)
        return -value if isinstance(value, int | float) else None
    return node.value if isinstance(node, ast.Constant) else None


def _is_small_power(base: ast.expr, exponent: ast.expr) -> bool:
    """A power that holds no other, of a number as small as shapes have."""
    if isinstance(exponent, ast.Call):
        named = isinstance(exponent.func, ast.Name) and exponent.func.id in _NUMBERS
        values = [_constant(each) for each in exponent.args] if named and not exponent.keywords else []
    else:
        values = [_constant(exponent)]
    small = all(isinstance(value, int | float) and abs(value) <= _LARGEST_EXPONENT for value in values)
    nested = any(
        isinstance(node, ast.Pow) or (isinstance(node, ast.Name) and node.id in _POWERS) for node in ast.walk(base)
    )
    return bool(values) and small and not nested and _is_value(base)


def _is_size(node: ast.AST) -> bool:
    """`L['x'].size()[0]` and its like: a method of an input, with small numbers for arguments."""
    if isinstance(node, ast.Subscript):
        return _is_size(node.value) and type(_constant(node.slice)) is int
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        plain = not node.keywords and all(type(_constant(arg)) is int for arg in node.args)
        return node.func.attr in _METHODS and plain and _is_input(node.func.value)
    return False


def _is_input(node: ast.expr) -> bool:
    if isinstance(node, ast.Subscript):
        key = _constant(node.slice)
        return _is_input(node.value) and (type(key) is int or (isinstance(key, str) and key.isidentifier()))
    return isinstance(node, ast.Name) and is_symbol(node.id)
