"""The model of a build: known by its source, and loaded once, when the first stage needs it."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dsr_export.sources import Source
from dsr_export.storage import heap

if TYPE_CHECKING:
    from dsr_export.subject import ExportSubject


@dataclass
class ModelAtHand:
    """A build that is served from the cache never loads it."""

    source: Source
    _subject: ExportSubject | None = field(default=None, repr=False)

    def stage_key(self) -> dict[str, Any]:
        """Identifies model and weights, without loading them; files were read once."""
        return self._key

    @cached_property
    def _key(self) -> dict[str, Any]:
        return {"called": self.source.name, **self.source.key()}  # the card has the name, which not all sources count

    def load(self) -> ExportSubject:
        """The subject; the same one until `unload`."""
        if self._subject is None:
            self._subject = self.source.load()
        return self._subject

    def unload(self) -> None:
        """Lets the model go: the stages behind the reference need its memory, not its weights."""
        if self._subject is not None:
            self._subject.release()
        self._subject = None
        gc.collect()
        heap.trim()
