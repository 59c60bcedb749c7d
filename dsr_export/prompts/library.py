"""The one module that imports the package `tokenizers`, when a tokenizer is opened."""

from __future__ import annotations

import importlib
from types import ModuleType

from dsr_export.errors import ExportError


def tokenizers() -> ModuleType:
    """The package. ExportError where it is missing, or cannot be loaded."""
    try:
        return importlib.import_module("tokenizers")
    except ImportError as error:
        raise ExportError(
            f"prompts need the package tokenizers ({error})",
            hint="install the extra: pip install 'dsr-export[prompts]'",
        ) from error
