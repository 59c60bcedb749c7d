"""Files of the packaged models, `dsr_export/assets/digits`. Needs no torch."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from dsr_export.errors import ExportError
from graphs.digests import bytes_digest

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable


GATES = "gated/dsr.toml"


def packaged_asset(name: str) -> Traversable:
    """A file of `dsr_export/assets/digits`; ExportError where the installation lacks it."""
    found = resources.files("dsr_export").joinpath("assets", "digits", name)
    if not found.is_file():
        raise ExportError(f"the installation lacks its packaged file assets/digits/{name}", hint="install it again")
    return found


def packaged_file(name: str) -> Path:
    """The same as a path, for files that name others beside them."""
    found = packaged_asset(name)
    if not isinstance(found, Path):
        raise ExportError("the installation lies in an archive, and this model needs files", hint="install it unpacked")
    return found


def packaged_sha256() -> str:
    """sha256 over the packaged configuration and weights, and the gates of `digits-gated`."""
    names = ("config.json", "weights.safetensors", GATES, "gated/site-1.safetensors")
    return bytes_digest(*(packaged_asset(name).read_bytes() for name in names))
