"""The JSON of an archive, taken apart by torch's own schema: every field of its type, and every text of its kind.

What comes out holds those fields only, so what is loaded is what was looked at. Some texts reach an evaluator or an
interpreter once torch loads them (expressions, guards, argument names, targets); the others are checked all the same.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import re
import types
import typing
from functools import cache
from typing import Any

from torch._export.serde import schema
from torch._export.serde.union import _Union

from dsr_export.program_archive.expressions import is_arithmetic, is_symbol
from dsr_export.program_archive.findings import DangerousError, MalformedError
from dsr_export.program_archive.operators import is_allowed

_MOST_BYTES, _MOST_VALUES, _MOST_CONTAINERS, _DEEPEST = 64 << 20, 2_000_000, 1_000_000, 100
_LONGEST = 20_000
_PATH = re.compile(r"[\w+@-]*(\.[\w+@-]+)*")
_IDENTIFIERS = frozenset(
    {"name", "as_name", "forward_arg_names", "user_input_name", "verifiers", "opset_version"}
    | {"tensor_values", "sym_int_values", "sym_bool_values", "sym_float_values"}
)
_PATHS = frozenset(
    {"parameter_name", "buffer_name", "tensor_constant_name", "fqn", "config", "path_name", "torch_version", "type"}
)
_FREE = frozenset({"as_string", "as_strings"})  # handed to the operator, and written with repr()
_KEPT = frozenset({"nn_module_stack", "torch_fn"})  # of a node's metadata; the rest names functions, or is for people
_UNBOUNDED = ("Infinity", "-Infinity", "NaN")  # how torch writes the numbers that JSON has not
_REFUSED = frozenset(
    {"as_custom_obj", "as_operator", "as_string_to_argument", "custom_obj_values", "custom_obj", "token"}
    | {"use_pickle", "treespec_namedtuple_fields"}
)


def parsed(content: bytes) -> Any:
    """The value that the JSON `content` holds. Raises ValueError where it is none, or far larger than a program is."""
    if len(content) > _MOST_BYTES or content.count(b",") > _MOST_VALUES:
        raise MalformedError(f"its graph has {len(content)} bytes, more than is read")
    if content.count(b"[") + content.count(b"{") > _MOST_CONTAINERS:
        raise MalformedError("its graph has too many parts")
    return json.loads(content.decode())


def shaped(value: Any, kind: Any, field: str = "", depth: int = 0) -> Any:
    """`value` as `kind` (a class of torch's schema, or a type made of them) has it; texts checked by their `field`.

    Raises:
        MalformedError: a value of another type, a missing field.
        DangerousError: an operator that isn't known to be harmless, code, pickled objects.
    """
    if depth > _DEEPEST:
        raise MalformedError(f"'{field}' is nested too deeply")
    if field in _REFUSED and value not in (False, None, {}, []):
        raise DangerousError(f"'{field}': an object to unpickle, or a class to import")
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else shaped(value, args[0], field, depth)
    if origin is list:
        return [shaped(each, args[0], field, depth + 1) for each in _a(list, value, field)]
    if origin is dict:
        return _mapping(_a(dict, value, field), args[1], field, depth)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _record(_a(dict, value, field), kind, field, depth)
    return _leaf(value, kind, field)


def _a(kind: type, value: Any, field: str) -> Any:
    if not isinstance(value, kind):
        raise MalformedError(f"'{field or 'its content'}' is {type(value).__name__}, not {kind.__name__}")
    return value


def _mapping(value: dict[str, Any], kind: Any, field: str, depth: int) -> dict[str, Any]:
    if field == "metadata":
        kept = {name: text for name, text in value.items() if name in _KEPT}
        return {name: _short(_a(str, text, field), field) for name, text in kept.items()}
    for name in value:
        _check_text(name, "range" if field == "range_constraints" else field)
    return {name: shaped(each, kind, "" if field == "config" else field, depth + 1) for name, each in value.items()}


def _record(value: dict[str, Any], kind: type, field: str, depth: int) -> dict[str, Any]:
    fields = _fields(kind)
    if issubclass(kind, _Union):
        if len(value) != 1 or not value.keys() <= fields.keys():
            raise MalformedError(f"'{field}' is none of {', '.join(fields)}")
        ((name, each),) = value.items()
        return {name: shaped(each, fields[name][0], name, depth + 1)}
    missing = [name for name, (_, needed) in fields.items() if needed and name not in value]
    if missing:
        raise MalformedError(f"'{field or kind.__name__}' has no '{missing[0]}'")
    known = [name for name in fields if name in value]
    return {name: shaped(value[name], fields[name][0], name, depth + 1) for name in known}


@cache
def _fields(kind: type) -> dict[str, tuple[Any, bool]]:
    """Name -> type, and whether it must be there."""
    hints = typing.get_type_hints(kind, globalns=vars(schema))
    missing = dataclasses.MISSING
    return {
        each.name: (hints[each.name], each.default is missing and each.default_factory is missing)
        for each in dataclasses.fields(kind)
    }


def _leaf(value: Any, kind: Any, field: str) -> Any:
    if kind is str:
        _check_text(_a(str, value, field), field)
    elif kind is float:
        if isinstance(value, bool) or not (isinstance(value, int | float) or value in _UNBOUNDED):
            raise MalformedError(f"'{field}' is {type(value).__name__}, not a number")
    elif kind is bool:
        _a(bool, value, field)
    elif isinstance(value, bool) or not isinstance(value, int):
        raise MalformedError(f"'{field}' is {type(value).__name__}, not an integer")
    elif isinstance(kind, type) and issubclass(kind, enum.IntEnum) and value not in [each.value for each in kind]:
        raise MalformedError(f"'{field}' is {value}, which torch does not know")
    if isinstance(value, int) and abs(value) > 1 << 63:
        raise MalformedError(f"'{field}' is larger than any number that torch has")
    return value


def _short(text: str, field: str) -> str:
    if len(text) > _LONGEST:
        raise MalformedError(f"'{field}' has {len(text)} characters")
    return text


def _check_text(text: str, field: str) -> None:
    _short(text, field)
    if field == "type" and text != "cpu":
        raise MalformedError(f"it was saved on {text[:40]!r}; use module.cpu() before exporting it")
    if field in ("in_spec", "out_spec"):
        harmless = text == "" or is_plain_tree(json.loads(text))
    else:
        harmless = _is_harmless(text, field)
    if not harmless:
        raise DangerousError(f"{field or 'the name'} {text[:80]!r}")


def _is_harmless(text: str, field: str) -> bool:
    if field in ("expr_str", "guards_code"):
        return is_arithmetic(text)
    if field == "target":
        return is_allowed(text)
    if field == "range":
        return is_symbol(text)
    if field in _IDENTIFIERS:
        return text == "" or (text.isidentifier() and not text.startswith("__"))
    if field in _PATHS:
        return _PATH.fullmatch(text) is not None and "__" not in [part[:2] for part in text.split(".")]
    return field in _FREE


def is_plain_tree(tree: Any, depth: int = 0) -> bool:
    """A pytree of tuples, lists and dicts."""
    if depth > _DEEPEST:
        raise MalformedError("its inputs are nested too deeply")
    if isinstance(tree, list):
        return all(is_plain_tree(each, depth + 1) for each in tree)
    if not isinstance(tree, dict):
        return isinstance(tree, int)
    known = tree.get("type") in (None, "builtins.tuple", "builtins.list", "builtins.dict")
    context = json.loads(_a(str, tree.get("context") or "null", "context"))
    names = context is None or (isinstance(context, list) and all(isinstance(name, str) for name in context))
    return known and names and is_plain_tree(tree.get("children_spec", []), depth + 1)
