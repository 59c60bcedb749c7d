"""Where commands run that a driver splits its work into. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

EXECUTORS = ("local", "ray")


@dataclass(frozen=True, kw_only=True)
class ExecutorRequest:
    """`address` of a Ray cluster (None: one that is started on this machine), and the `storage` that it shares: an
    `fsspec` URL or a path.
    """

    kind: Literal["local", "ray"] = "local"
    address: str | None = None
    storage: str | None = None


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What the machine of a command must have free. `memory` is in bytes; `accelerator` is Ray's word for a GPU."""

    cpus: float = 1
    gpus: float = 0
    memory: int | None = None
    accelerator: str | None = None
    custom: Mapping[str, float] = field(default_factory=dict)
