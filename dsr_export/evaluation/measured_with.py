"""What pictures and features depend on beside their inputs: this code, the packages that compute, and the GPU at hand.

A cache outlives an update, and machines share one: figures of two of them are not mixed without a word.
"""

from __future__ import annotations

import importlib.metadata
from contextlib import suppress
from typing import Any

from dsr_export.backends.gpu import compute_capability
from dsr_export.storage.made_with import source_digest, tool_versions

_PACKAGES = ("torchmetrics", "torch-fidelity", "tokenizers", "safetensors")


def measured_with() -> dict[str, Any]:
    """JSON values for a key in the cache. `--runtime auto` runs what the GPU decides."""
    versions = tool_versions()
    for name in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {"tools": versions, "source": source_digest(), "gpu": compute_capability()}
