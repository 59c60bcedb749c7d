"""Files of the packaged models, `dsr_export/assets/digits`. Needs no torch."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

from dsr_export.errors import ExportError
from graphs.digests import bytes_digest

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable


def packaged_asset(name: str) -> Traversable:
    """A file of `dsr_export/assets/digits`; ExportError where the installation lacks it."""
    found = resources.files("dsr_export").joinpath("assets", "digits", name)
    if not found.is_file():
        raise ExportError(f"the installation lacks its packaged file assets/digits/{name}", hint="install it again")
    return found


def packaged_sha256() -> str:
    """sha256 over the packaged configuration and weights."""
    return bytes_digest(*(packaged_asset(name).read_bytes() for name in ("config.json", "weights.safetensors")))
