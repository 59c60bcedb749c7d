"""The one error that users meet. Everything raised on purpose is an `ExportError`; the CLI prints it, exit code 1."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ExportError(Exception):
    """What went wrong and where (`message`), and the next command or flag that helps (`hint`)."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """`did you mean 'x'?` for the nearest known word, or None where nothing is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean '{near[0]}'?" if near else None
