"""The user's own Python code: imported from the current folder, and identified by the contents of its files."""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from dsr_export.errors import ExportError, did_you_mean
from graphs.digests import files_digest

_INSTALLED = frozenset({"site-packages", "dist-packages"})


@contextlib.contextmanager
def running_own_code() -> Iterator[None]:
    """The current folder is importable, and what the code prints goes to stderr: stdout belongs to the result."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        with contextlib.suppress(ValueError):  # the code itself may have taken it out
            sys.path.remove(here)


def import_object(module: str, attribute: str) -> Any:
    """`attribute` (dotted for a nested one) of `module`.

    Raises:
        ExportError: no such module, one whose import fails (with its own error), or no such attribute.
    """
    found: Any = _import(module)
    for part in attribute.split("."):
        if not hasattr(found, part):
            names = [name for name in dir(found) if not name.startswith("_")]
            hint = did_you_mean(part, names) or "it has " + (", ".join(names[:10]) or "nothing")
            raise ExportError(f"{getattr(found, '__name__', module)} has no '{part}'", hint=hint)
        found = getattr(found, part)
    return found


def code_digest(module: str) -> str:
    """sha256 over the source that `module` consists of: its whole top-level package, or its file and the files beside
    it that it imports. Imports nothing. Raises `ExportError` where there is no such module."""
    return files_digest(_source_files(module))


def described(error: BaseException) -> str:
    """An error of the user's code, in one line."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"SyntaxError: {error.msg} ({Path(error.filename).name}, line {error.lineno})"
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def _import(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            raise _not_found(error.name) from error
        raise _import_failed(module, error) from error
    except Exception as error:  # the user's code may raise anything
        raise _import_failed(module, error) from error


def _import_failed(module: str, error: Exception) -> ExportError:
    return ExportError(f"importing {module} failed: {described(error)}", hint=f"try: python -c 'import {module}'")


def _not_found(module: str) -> ExportError:
    here = Path.cwd()
    nearby = [path.stem for path in here.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()]
    near = did_you_mean(module, nearby)
    return ExportError(f"there is no module '{module}'", hint=near or f"run it in the folder of {module.split('.')[0]}")


def _source_files(module: str) -> list[Path]:
    top = module.split(".")[0]
    spec = importlib.util.find_spec(top)
    if spec is None:
        raise _not_found(top)
    if spec.submodule_search_locations:
        return sorted(path for folder in spec.submodule_search_locations for path in Path(folder).rglob("*.py"))
    file = Path(spec.origin or "")
    return sorted(_with_imports(file)) if file.is_file() else []


def _with_imports(file: Path) -> set[Path]:
    """`file` and, unless it is an installed one, all that it imports from its own folder, and so on."""
    found, waiting = {file}, [file]
    while waiting and not _INSTALLED & set(file.parts):
        for name in _imported_names(waiting.pop()):
            package, single = file.parent / name, file.parent / f"{name}.py"
            new = set(package.rglob("*.py")) if (package / "__init__.py").is_file() else {single}
            new = {path for path in new - found if path.is_file()}
            found |= new
            waiting += new
    return found


def _imported_names(file: Path) -> set[str]:
    """Top-level names of its absolute imports; none for a file that does not parse, whose import will say so."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return set()
    plain = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    froms = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    return {name.split(".")[0] for name in plain | froms}
