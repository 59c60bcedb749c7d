"""The line of the user's code behind an error or a guard of torch.export."""

from __future__ import annotations

import contextlib
import linecache
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

import torch
from torch._guards import TracingContext
from torch.fx.experimental import symbolic_shapes
from torch.fx.experimental.symbolic_shapes import ShapeEnv

_TORCH, _PYTHON = (str(Path(module).parent) for module in (torch.__file__, contextlib.__file__))
_OURS = str(Path(__file__).parents[1])
_CALLERS = ("exporting.py", "batch_guards.py", "forward_modes.py", "signatures.py", "subjects/module.py")
"""Of our files, those that call the model's code; what is before them on the stack is none of it."""
_BETWEEN = ("constant_ops.py", "data_reads.py")
"""Those that the model's code runs into where it calls torch."""
_FILE = re.compile(r'File "([^"]+)", line (\d+)')


def of_error(error: BaseException) -> str | None:
    """The innermost line outside of torch that `error`, or what caused it, passed through: "model.py:12 `code`"."""
    found = None
    for cause in _causes(error):
        frames = traceback.extract_tb(cause.__traceback__)
        found = _innermost((frame.filename, frame.lineno) for frame in frames) or found
        said = getattr(cause, "real_stack", None)  # what dynamo interprets is on no Python stack
        found = _innermost((frame.filename, frame.lineno) for frame in said or ()) or found
    return found


def of_stack(text: str | None) -> str | None:
    """The same from a stack as text, as nodes of a traced graph carry it."""
    return _innermost((file, int(line)) for file, line in _FILE.findall(text or ""))


@contextlib.contextmanager
def kept_in_guards() -> Iterator[None]:
    """Guards made within the block say in `sloc.maybe_user_loc` which line of the user's code they are from.

    torch itself knows only its own innermost line, unless dynamo interprets the code.
    """

    def located(self: Any, framework_loc: Any = None) -> Any:
        return symbolic_shapes.SLoc(framework_loc, _here())  # type: ignore[attr-defined]

    with mock.patch.object(ShapeEnv, "_get_sloc", located):
        yield


def _here() -> str | None:
    interpreted = TracingContext.extract_stack()
    found = _innermost((frame.filename, frame.lineno) for frame in interpreted)
    return found or _innermost(reversed([*_running(sys._getframe(2))]))


def _running(frame: FrameType | None) -> Iterator[tuple[str, int]]:
    while frame is not None:
        yield frame.f_code.co_filename, frame.f_lineno
        frame = frame.f_back


def _innermost(frames: Iterable[tuple[str, int | None]]) -> str | None:
    """Of frames from the outermost to the innermost, those before the model's own being ours and the caller's."""
    listed = [(file, line) for file, line in frames if line is not None]
    inside = max((i + 1 for i, (file, _) in enumerate(listed) if _is_ours(file, _CALLERS)), default=0)
    for file, line in reversed(listed[inside:]):
        if not file.startswith((_TORCH, "<")) and not _is_pythons(file) and not _is_ours(file, _BETWEEN):
            return _shown(file, line)
    return None


def _is_ours(file: str, named: tuple[str, ...]) -> bool:
    return file.startswith(_OURS) and file.endswith(named)


def _is_pythons(file: str) -> bool:
    return file.startswith(_PYTHON) and "-packages" not in file


def _shown(file: str, line: int) -> str:
    path, code = Path(file), linecache.getline(file, line).strip()
    name = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else Path(*path.parts[-2:])
    return f"{name}:{line}" + (f" `{code[:100]}`" if code else "")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
