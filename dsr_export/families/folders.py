"""Digests of model folders; needs no torch."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from dsr_export.errors import ExportError
from graphs.artifacts import files_digest

MODEL_FILES = ("*.json", "*.safetensors")


def folder_sha256(folder: Path) -> str:
    """sha256 over names and contents of a Hugging Face folder's configurations and weights, subfolders left out.

    Raises ExportError where it holds none.
    """
    files = sorted(path for pattern in MODEL_FILES for path in folder.glob(pattern) if path.is_file())
    if not files:
        raise ExportError(
            f"{folder} holds no model files", hint="a Hugging Face folder has config.json and safetensors"
        )
    digest = hashlib.sha256()
    for path in files:
        digest.update(os.fsencode(path.name) + f"\0{files_digest([path])}\0".encode())
    return digest.hexdigest()
