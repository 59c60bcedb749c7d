"""Names and messages from elsewhere, in a form that JSON, pages and terminals take."""

from __future__ import annotations

LONGEST = 2000  # characters of a message: a damaged file may have names of a megabyte
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def readable(text: str) -> str:
    """`text` as UTF-8 can hold it: of a file's name, bytes that are none become `\\xff`.

    Python keeps such bytes as lone surrogates; in an ASCII locale it keeps all others so too, and they come back here.
    """
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a surrogate that came from elsewhere, as JSON's "\ud800"
        data = text.encode("utf-8", "backslashreplace")
    return data.decode("utf-8", "backslashreplace")


def printable(text: str) -> str:
    """`text` without what a terminal would take for a command."""
    return readable(text).translate(_CONTROLS)


def shortened(text: str) -> str:
    """`text` without its middle where it is very long."""
    left = len(text) - LONGEST
    return text if left <= 0 else f"{text[: LONGEST // 2]} ... ({left} characters) ... {text[-LONGEST // 2 :]}"
