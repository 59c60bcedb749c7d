"""What a result was made with: this code, and the tools that are installed. Part of every key and every report."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
from contextlib import suppress
from functools import cache
from pathlib import Path

from dsr_export.version import __version__
from graphs.digests import bytes_digest

_PACKAGES = ("dsr_export", "graphs", "calibration")
_TOOLS = (
    *("torch", "onnx", "onnxruntime", "onnxruntime-gpu", "onnx-graphsurgeon", "onnxscript"),
    *("polygraphy", "tensorrt-rtx", "tensorrt", "numpy", "diffusers", "transformers", "pillow"),
)


@cache
def source_digest() -> str:
    """sha256 over the Python files of the three packages: changed code makes other results."""
    files: list[bytes] = []
    for package in _PACKAGES:
        found = importlib.util.find_spec(package)
        for root in map(Path, (found.submodule_search_locations or ()) if found else ()):
            for path in sorted(root.rglob("*.py")):
                data = path.read_bytes()
                files.append(f"{package}/{path.relative_to(root).as_posix()}\0{len(data)}\0".encode() + data)
    return bytes_digest(*files)


def tool_versions() -> dict[str, str]:
    """Distribution -> version, of this package, Python, and the tools that are installed; none is imported."""
    versions = {"dsr-export": __version__, "python": platform.python_version()}
    for name in _TOOLS:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions
