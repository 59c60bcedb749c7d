"""The one error that users meet. Everything raised on purpose is an `ExportError`; the CLI prints it, exit code 1."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST, TAIL = 4000, 1000  # characters of a message, and how many of its end stay where it is longer


class ExportError(Exception):
    """What went wrong and where (`message`), and the next command or flag that helps (`hint`)."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        self.message = _shown(message)
        self.hint = hint
        super().__init__(self.message)


def _shown(message: str) -> str:
    """`message` as a terminal may show it: names in files can be megabytes, and hold codes that move the cursor."""
    if len(message) > LONGEST:
        message = f"{message[: LONGEST - TAIL]} … {message[-TAIL:]}"
    return "".join(letter if _is_plain(letter) else _escaped(letter) for letter in message)


def _is_plain(letter: str) -> bool:
    """Bytes of a file's name that are no UTF-8 stay as Python keeps them: printing makes them whole."""
    return letter.isprintable() or letter in "\n\t" or "\udc80" <= letter <= "\udcff"


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode()


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """`did you mean 'x'?` for the nearest known word, or None where nothing is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean '{near[0]}'?" if near else None
