"""Errors of the tool; the library raises, the CLI converts."""

from __future__ import annotations

from graphs.errors import ExportError, did_you_mean

__all__ = ["ExportError", "did_you_mean"]
