"""MODEL as the name of a registered model, with a checkpoint, a seed, or packaged weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dsr_export.config import ModelRequest
from dsr_export.families import FamilyRequest, load, subject_key
from dsr_export.subject import Subject


@dataclass(frozen=True)
class RegisteredSource:
    """A model of the table in `dsr_export.families`."""

    request: ModelRequest

    @property
    def name(self) -> str:
        return self.request.model

    def key(self) -> dict[str, Any]:
        return subject_key(FamilyRequest.of(self.request))

    def load(self) -> Subject:
        return load(FamilyRequest.of(self.request))


def accepts(request: ModelRequest) -> bool:
    """Anything that no other form took."""
    return True


def source(request: ModelRequest) -> RegisteredSource:
    """The source; the name is checked when it is used."""
    return RegisteredSource(request)
