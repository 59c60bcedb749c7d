"""Errors of the tool; the library raises, the CLI converts."""

from __future__ import annotations

from graphs.errors import ExportError, did_you_mean

__all__ = ["ExportError", "RunnerError", "did_you_mean"]


class RunnerError(ExportError):
    """A model did not load or run in a runtime, on inputs that fit it: a failed check, where one is made.

    Only runners raise it, and what calls one. A damaged file, a missing package, or inputs that do not fit are plain
    errors: no verdict rests on them.
    """
