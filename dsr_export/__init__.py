"""Export diffusion transformers with Dual-Stage Registers to ONNX and TensorRT, and check that the numbers stay.

The names below are loaded on first use, so that `import dsr_export` stays light on a device without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dsr_export.version import __version__ as __version__

if TYPE_CHECKING:
    from dsr_export.bundle.reader import Bundle
    from dsr_export.config import ExportConfig
    from dsr_export.pipeline import export
    from dsr_export.sources import load_subject
    from dsr_export.subject import Subject


_LAZY = {
    "export": "dsr_export.pipeline",
    "ExportConfig": "dsr_export.config",
    "load_subject": "dsr_export.sources",
    "Subject": "dsr_export.subject",
    "Bundle": "dsr_export.bundle.reader",
}

__all__ = ["Bundle", "ExportConfig", "Subject", "__version__", "export", "load_subject"]


def __getattr__(name: str) -> Any:
    """Imports the module that holds `name`; AttributeError for any other name (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
