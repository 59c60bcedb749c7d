"""Where files of a bundle lie, and which names they may have: plain relative POSIX paths that mean the same file on
every system."""

from __future__ import annotations

import re
from collections.abc import Iterable

from dsr_export.errors import ExportError

LONGEST = 240
MANIFEST, MODEL = "manifest.json", "model.onnx"
RUNTIME_MODEL = "onnxruntime.onnx"
"""What ONNX Runtime runs in the place of a `model.onnx`, beside it and over the same weights."""
SIGNATURE = "manifest.json.sig"
"""Optional, and listed nowhere: it is made of the manifest."""

STEP = "step/"
"""The folder of what holds a whole step of the sampler: the same graphs and engines, under the same names."""

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@=,-]*", re.ASCII)
_WINDOWS_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE | re.ASCII)
_HINT = "do not use this bundle if it came from someone else: it was not written by dsr-export"


def plan_path(target: str) -> str:
    """`engines/<target>.plan`, with a dash for the colon that some file systems refuse."""
    return f"engines/{target.replace(':', '-')}.plan"


def step_plan_path(target: str) -> str:
    """Where the engine lies that holds a whole step of the sampler; reports call it so, too."""
    return STEP + plan_path(target)


def check_relative_path(path: str, *, where: str) -> str:
    """`path` itself, safe to join to the bundle's folder.

    Raises:
        ExportError: it could lead out of the folder, or mean different files on different systems.
    """
    problem = _problem(path)
    if problem:
        raise ExportError(f"{where} names the file {path[:80]!r}, which {problem}", hint=_HINT)
    return path


def check_path_set(paths: Iterable[str], *, where: str) -> None:
    """Raises ExportError where a path is unsafe, is the manifest's own, or clashes with another."""
    seen: dict[str, str] = {}
    for path in paths:
        check_relative_path(path, where=where)
        if path.lower() in (MANIFEST, SIGNATURE):
            raise ExportError(f"{where} lists {path!r}, which cannot hold its own checksum", hint=_HINT)
        if path.lower() in seen:
            other = seen[path.lower()]
            raise ExportError(f"{where} names {other!r} and {path!r}: one file on some systems", hint=_HINT)
        seen[path.lower()] = path
    for path in seen.values():
        for parent in parents(path):
            if parent.lower() in seen:
                raise ExportError(f"{where} names {parent!r} both as a file and as a folder", hint=_HINT)


def parents(path: str) -> list[str]:
    """The folders above a relative path, outermost first: `a/b/c` -> `a`, `a/b`."""
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _problem(path: str) -> str | None:
    parts = path.split("/")
    checks = (
        (not path, "is empty"),
        (len(path) > LONGEST, f"is longer than {LONGEST} characters"),
        (any(ord(char) < 32 for char in path), "holds a control character"),
        ("\\" in path, "holds a backslash"),
        (path.startswith("/"), "is absolute"),
        (":" in path, "holds a colon: a Windows drive or stream"),
        (".." in parts, "leads out of the folder"),
        ("" in parts or "." in parts, "is not normalised"),
        (any(not _PART.fullmatch(part) or part.endswith(".") for part in parts), "holds characters not allowed here"),
        (any(_WINDOWS_DEVICE.fullmatch(part) for part in parts), "is a device on Windows"),
    )
    return next((problem for found, problem in checks if found), None)
