"""What a user is told of an error that no other place has explained: what was met, and what to do about it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from dsr_export.errors import ExportError
from dsr_export.out_of_memory import is_out_of_memory
from dsr_export.storage.disk import is_disk_full
from dsr_export.torch_versions import install_torch, installed_torch_problem

Explained = tuple[str, str | None]

_MEMORY_HINT = "give it more memory (see `ulimit -v`, or the container's limit), or a smaller --batch"
_FILES_HINT = "allow more open files (`ulimit -n`)"
_LEFT_OUT = {name: name for name in ("torch", "torchmetrics", "onnxscript", "safetensors")} | {"yaml": "pyyaml"}
"""Packages by module that a plain installation brings, and a device goes without: it builds no models."""
_HINTS = {errno.EMFILE: _FILES_HINT, errno.ENFILE: _FILES_HINT}


def explained(error: Exception) -> Explained:
    """Message and hint. Only what nothing here accounts for is called a bug."""
    short = next((each for each in _chain(error) if is_out_of_memory(each)), None)
    if short is not None:
        return f"out of memory{_detail(short)}", _MEMORY_HINT
    if isinstance(error, ExportError):
        return error.message, error.hint
    if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] in _LEFT_OUT:
        package = _LEFT_OUT[(error.name or "").split(".")[0]]
        remedy = install_torch() if package == "torch" else f"pip install {package}"
        return f"this needs the package {package}, which is not installed here", remedy
    if isinstance(error, OSError):
        return _of_system(error)
    if isinstance(error, RuntimeError) and str(error).startswith("Symlink loop"):  # from Path.resolve() before 3.13
        return str(error), "check the path"
    if isinstance(error, UnicodeEncodeError):
        what = f"the character {error.object[error.start : error.end]!r} has no form in {error.encoding}"
        return f"{what}, which this locale asks for", "set PYTHONUTF8=1, or a UTF-8 locale such as LC_ALL=C.UTF-8"
    return f"unexpected {type(error).__name__}: {error}", f"{_whose_fault()}; --debug shows where"


def _whose_fault() -> str:
    """A bug of ours, unless it is met with a torch that nobody ran the tests with."""
    problem = installed_torch_problem()
    return f"{problem}: {install_torch()}" if problem else "this is a bug"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and those that led to it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _detail(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f": {lines[0]}" if lines else ""


def _of_system(error: OSError) -> Explained:
    reason = error.strerror or str(error) or type(error).__name__
    if error.filename is None and _folder_gone():
        return "the working folder does not exist any more", "change to one that does"
    if is_disk_full(error):
        return f"disk full: {reason}{_where(error)}", "free some space"
    return f"{reason}{_where(error)}", _HINTS.get(error.errno or 0, "check the path")


def _where(error: OSError) -> str:
    name = error.filename
    return f": {os.fsdecode(name)}" if isinstance(name, (str, bytes, os.PathLike)) else ""


def _folder_gone() -> bool:
    try:
        os.getcwd()  # noqa: PTH109 (Path.cwd() is the same call)
    except OSError:
        return True
    return False
