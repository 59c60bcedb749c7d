"""MODEL as the name of a registered model, with a checkpoint, a seed, or packaged weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dsr_export.config import ModelRequest
from dsr_export.families import load_subject, subject_key
from dsr_export.subject import Subject


@dataclass(frozen=True)
class RegisteredSource:
    """A model of the table in `dsr_export.families`."""

    request: ModelRequest

    @property
    def name(self) -> str:
        return self.request.model

    def key(self) -> dict[str, Any]:
        asked, options = self.request, dict[str, Any](self.request.options)
        return subject_key(
            asked.model,
            asked.checkpoint,
            asked.random_weights,
            asked.registers,
            weights=asked.weights,
            dsr=asked.dsr,
            **options,
        )

    def load(self) -> Subject:
        asked, options = self.request, dict[str, Any](self.request.options)
        return load_subject(
            asked.model,
            checkpoint=asked.checkpoint,
            weights=asked.weights,
            random_weights=asked.random_weights,
            registers=asked.registers,
            dsr=asked.dsr,
            **options,
        )


def accepts(request: ModelRequest) -> bool:
    """Anything that no other form took."""
    return True


def source(request: ModelRequest) -> RegisteredSource:
    """The source; the name is checked when it is used."""
    return RegisteredSource(request)
