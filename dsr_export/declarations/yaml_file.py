"""YAML files, read strictly: no code, no key twice, no interpolation; a null counts as left out. Needs no torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from dsr_export.declarations.toml_table import Table
from dsr_export.errors import ExportError
from dsr_export.short_repr import short_repr
from graphs.foreign.small_files import read_small

NESTED = ("params", "guidance_model")
"""Keys of a section that hold keys of their own."""
LARGEST_YAML = 64 << 10  # bytes; the reader is slow
LONGEST_REASON = 300
MOST_KEYS = 1024  # of one mapping, merged ones included
MERGE = "tag:yaml.org,2002:merge"
_HINT = "give --config a YAML file"
_ON_WRONG_TAGS = (ValueError, LookupError, AttributeError, TypeError, ArithmeticError, RecursionError)
"""What the reader raises on `!!int x`, `!!bool x`, `!!timestamp x` and the like."""
_FLOAT = re.compile(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+")  # YAML 1.2 and OmegaConf; YAML 1.1 reads 1e-4 as text


def read_yaml(path: Path) -> dict[str, Any]:
    """The sections of `path` by name. Raises ExportError where there are none to read."""
    import yaml

    try:
        content = yaml.load(read_small(path, max_bytes=LARGEST_YAML, hint=_HINT).decode(), _strict_loader(yaml))
    except FileNotFoundError as error:
        raise ExportError(f"no such file: {path}", hint=_HINT) from error
    except OSError as error:
        raise ExportError(f"{path} can't be read: {error}", hint=_HINT) from error
    except (yaml.YAMLError, *_ON_WRONG_TAGS) as error:
        reason = " ".join(str(error).split())[:LONGEST_REASON] or type(error).__name__
        raise ExportError(f"{path} is no YAML: {reason}", hint="correct it at that place") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ExportError(f"{path} has no sections", hint="give the YAML of a stage-2 training or sampling")
    return content


def _strict_loader(yaml: Any) -> Any:
    """pyyaml's safe loader, which reads 1e-4 as a number and refuses a key that is given twice."""

    def construct_mapping(self: Any, node: Any, deep: bool = False) -> Any:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key is no text", key.start_mark)
            if key.tag != MERGE and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"'{key.value}' is given twice", key.start_mark)
            seen.add(key.value)
        return yaml.SafeLoader.construct_mapping(self, node, deep=deep)

    def flatten_mapping(self: Any, node: Any) -> None:
        """Lists of merged mappings double with each level."""
        for key, value in node.value:
            if key.tag == MERGE and not isinstance(value, yaml.MappingNode):
                raise yaml.constructor.ConstructorError(None, None, "'<<' takes one mapping", key.start_mark)
        yaml.SafeLoader.flatten_mapping(self, node)
        if len(node.value) > MOST_KEYS:
            raise yaml.constructor.ConstructorError(None, None, f"more than {MOST_KEYS} keys", node.start_mark)

    own = {"construct_mapping": construct_mapping, "flatten_mapping": flatten_mapping}
    loader = type("StrictLoader", (yaml.SafeLoader,), own)
    loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))  # type: ignore[attr-defined]
    return loader


def section(where: str, values: Any, *known: str) -> Table:
    """Keys and values found at `where`; an empty table where `values` is None. Without `known`, any key may be there.

    Raises ExportError for any other content, unknown keys, and values that are nested or refer to others.
    """
    if not isinstance(values, dict | None) or not all(isinstance(key, str) for key in values or ()):
        raise ExportError(f"{where} is {shown(values)}", hint="give it keys and values, one to a line")
    table = Table(where, {key: value for key, value in (values or {}).items() if value is not None})
    if known:
        table.check_keys(*known)
    for key, value in table.values.items():
        if isinstance(value, str) and "${" in value:
            raise ExportError(f"{where}.{key}: {shown(value)} is not resolved", hint="write the value itself")
        if key not in NESTED and not _flat(value):
            raise ExportError(f"{where}.{key} is {shown(value)}", hint="give it one value, or a list of values")
    return table


def inner(table: Table, name: str, *known: str) -> Table:
    """The section inside `table` called `name`, which may be absent."""
    return section(f"{table.where}.{name}", table.values.get(name), *known)


def shown(value: Any) -> str:
    """Cut short: aliases can make the value of a small file endless."""
    return short_repr(value, levels=2)


def _flat(value: Any) -> bool:
    """A value, or a list of values."""
    listed = value if isinstance(value, list) else [value]
    return not any(isinstance(each, list | dict | set) for each in listed)
