"""Digests of what a user names: files, model folders, options. Needs no torch."""

from __future__ import annotations

import os
from pathlib import Path

from dsr_export.errors import ExportError
from graphs.digests import bytes_digest, files_digest

MODEL_FILES = ("*.json", "*.safetensors")
FILE_OPTIONS = ("latent_stats", "register_file")
"""Options that name a file: they count by its content."""
Value = bool | int | float | str


def file_sha256(path: Path) -> str:
    """sha256 of a user's file; ExportError where there is none."""
    if not path.is_file():
        what = f"{path} is not a regular file" if path.exists() else f"no such file: {path}"
        raise ExportError(what, hint="check the path")
    return files_digest([path])


def folder_sha256(folder: Path) -> str:
    """sha256 over names and contents of a Hugging Face folder's configurations and weights, subfolders left out.

    Raises ExportError where it holds none.
    """
    files = sorted(path for pattern in MODEL_FILES for path in folder.glob(pattern) if path.is_file())
    if not files:
        raise ExportError(
            f"{folder} holds no model files", hint="a Hugging Face folder has config.json and safetensors"
        )
    return bytes_digest(*(os.fsencode(path.name) + f"\0{files_digest([path])}\0".encode() for path in files))


def option_key(name: str, value: Value) -> Value:
    """What an option counts as in a cache key: a file by its content."""
    return file_sha256(Path(str(value))) if name in FILE_OPTIONS else value
