"""The folder of a pipeline's autoencoder. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CLASSES = ("AutoencoderKL", "AutoencoderDC")
"""Classes of diffusers whose decoder can be built here."""


@dataclass(frozen=True, kw_only=True)
class VaeFolder:
    """`path` holds `config.json`, whose values are `config`; `weights` are none where only a config is there."""

    path: Path
    class_name: str
    config: Mapping[str, Any]
    weights: tuple[Path, ...]
