"""What a `.pt2` may hold, checked before torch opens it: loading an exported program is not free of code execution.

`torch.export.load` falls back to full pickle wherever an entry asks for it or `weights_only` fails; shape expressions
go through `sympy.sympify`, which evaluates them; guards are executed as Python; argument names are pasted into source
that is executed; and a node may call anything below `torch`. So an archive is taken only where every entry is of a
known kind, every tensor is stored raw, and every string that reaches an evaluator is arithmetic (torch 2.13).
"""

from __future__ import annotations

import ast
import io
import json
import pickle  # noqa: TID251 (for its exception; nothing is unpickled here)
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from dsr_export.errors import ExportError

_AGAIN = "make it again where you trust it: torch.export.save(torch.export.export(module, inputs), 'model.pt2')"
_MEMBERS = re.compile(
    r"byteorder|archive_format|archive_version|\.data/(version|serialization_id)|models/model\.json|extra/[^\\]*"
    r"|data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)"
    r"|data/sample_inputs/model\.pt"
)
_TARGET = re.compile(
    r"torch\.ops\.(aten|prims|dsr)\.\w+\.\w+|torch\.ops\.higher_order\.wrap_with_(set_grad_enabled|autocast)"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|pow|neg|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem)"
    r"|math\.(ceil|floor|trunc|sqrt|pow)|torch\.sym_(max|min|not|int|float|ite|sum)"
)
_PLAIN = re.compile(r"[\w.+-]*")
_FREE = frozenset({"metadata", "as_string", "as_strings"})  # kept as data, or written with repr()
_CODE = frozenset({"expr_str", "guards_code"})
_FUNCTIONS = re.compile(
    "Symbol|Integer|Float|Rational|Add|Mul|Pow|Max|Min|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|ModularIndexing|Where"
    "|IntTrueDiv|FloatTrueDiv|TruncToInt|TruncToFloat|CeilToInt|FloorToInt|RoundToInt|ToFloat|Abs|Eq|Ne|Lt|Le|Gt|Ge"
    "|And|Or|Not|Identity|PowByNatural|FloatPow"
)
_METHODS = frozenset({"size", "stride", "dim", "numel", "storage_offset"})
_SYNTAX = (
    ast.Expression,
    ast.Name,
    ast.Load,
    ast.Constant,
    ast.Call,
    ast.keyword,
    ast.Attribute,
    ast.Subscript,
    ast.BinOp,
    ast.UnaryOp,
    ast.Compare,
    ast.BoolOp,
    ast.operator,
    ast.unaryop,
    ast.cmpop,
    ast.boolop,
)


def check_archive(path: Path) -> None:
    """Raises `ExportError` where `path` is no exported program, or holds anything that could execute code."""
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(path, archive.namelist())
            for name in archive.namelist():
                if name.endswith(".json"):
                    _check_json(path, json.loads(archive.read(name)))
                elif name.endswith("/sample_inputs/model.pt"):
                    _check_tensors(path, archive.read(name))
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        ValueError,
        RecursionError,
        NotImplementedError,
    ) as error:
        raise ExportError(f"{path} is no readable exported program: {error}", hint=_AGAIN) from error


def _check_members(path: Path, names: list[str]) -> None:
    if len(set(names)) != len(names):  # readers differ in which of two they take
        raise ExportError(f"{path} holds two entries of one name", hint=_AGAIN)
    if any(name.startswith("serialized_") for name in names):
        raise ExportError(
            f"{path} was saved by an older torch", hint="load it and save it again with torch 2.8 or later"
        )
    for name in names:
        if not _MEMBERS.fullmatch(name.partition("/")[2]):
            raise ExportError(f"{path} holds '{name}', which could execute code or is unknown", hint=_AGAIN)
    if len({name.partition("/")[0] for name in names}) != 1 or not any(n.endswith("/models/model.json") for n in names):
        raise ExportError(f"{path} is no exported program", hint=_AGAIN)


def _check_tensors(path: Path, content: bytes) -> None:
    try:
        torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError, TypeError, AttributeError) as error:
        message = f"{path}: its example inputs are not plain tensors, and would be unpickled"
        raise ExportError(message, hint=_AGAIN) from error


def _check_json(path: Path, content: Any) -> None:
    for problem in _problems(content, ""):
        raise ExportError(f"{path} is refused, as it could execute code: {problem}", hint=_AGAIN)


def _problems(value: Any, key: str) -> Iterator[str]:
    if key in _FREE:
        return
    if isinstance(value, dict):
        yield from (f"the name {name!r}" for name in value if not _PLAIN.fullmatch(name))
        if value.get("use_pickle") or value.get("treespec_namedtuple_fields"):
            yield "a pickled tensor, or a class to import"
        for name, each in value.items():
            yield from _problems(each, name)
    elif isinstance(value, list):
        for each in value:
            yield from _problems(each, key)
    elif isinstance(value, str) and not _is_harmless(value, key):
        yield f"{key} {value[:80]!r}"


def _is_harmless(text: str, key: str) -> bool:
    if key in _CODE:
        return _is_arithmetic(text)
    if key in ("target", "as_operator"):
        return _TARGET.fullmatch(text) is not None
    if key in ("in_spec", "out_spec"):
        return text == "" or _is_plain_tree(json.loads(text))
    return _PLAIN.fullmatch(text) is not None


def _is_arithmetic(text: str) -> bool:
    """Symbols, numbers, sizes of inputs, and the functions shape expressions are made of; no other call, no dunder."""
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, MemoryError):
        return False
    return "__" not in text and all(_is_allowed(node) for node in ast.walk(tree))


def _is_allowed(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        called = node.func
        named = isinstance(called, ast.Name) and _FUNCTIONS.fullmatch(called.id) is not None
        return named or isinstance(called, ast.Attribute)  # whose name is checked when its turn comes
    if isinstance(node, ast.Attribute):
        return node.attr in _METHODS
    if isinstance(node, ast.Constant):
        return not isinstance(node.value, str) or _PLAIN.fullmatch(node.value) is not None
    return isinstance(node, _SYNTAX)


def _is_plain_tree(tree: Any) -> bool:
    """A pytree of tuples, lists and dicts."""
    if isinstance(tree, list):
        return all(_is_plain_tree(each) for each in tree)
    if not isinstance(tree, dict):
        return isinstance(tree, int)
    known = tree.get("type") in (None, "builtins.tuple", "builtins.list", "builtins.dict")
    context = json.loads(tree.get("context") or "null")
    names = context is None or (isinstance(context, list) and all(isinstance(name, str) for name in context))
    return known and names and _is_plain_tree(tree.get("children_spec", []))
