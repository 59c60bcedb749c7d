"""The package `transformers`, which never uses the network here, and what its loading may raise and print.

The one place that imports it: files are local, and `HF_HUB_OFFLINE` is set before the import.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import safetensors
import torch

from dsr_export.errors import ExportError


def transformers_package(what: str) -> Any:
    """The package. Raises ExportError, which says that `what` needs it, where it is missing."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read by huggingface_hub when it is imported
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise ExportError(
            f"{what} need the package transformers: {error}", hint="pip install 'dsr-export[models]'"
        ) from error


def refusals() -> tuple[type[Exception], ...]:
    """What transformers raises on sizes, configurations and files that are inconsistent, incomplete or damaged."""
    known = (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, ZeroDivisionError)
    errors = importlib.import_module("huggingface_hub.errors")
    strict = getattr(errors, "StrictDataclassError", ValueError)  # newer releases check configurations with it
    return (*known, safetensors.SafetensorError, strict)


@contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """Without its progress bar and its report of unused weights: stderr belongs to our progress."""
    logging = transformers.utils.logging
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def weight_count(model_class: Any, config: Any) -> int:
    """How many weights there will be, without memory for them."""
    with torch.device("meta"):
        made = model_class(config)
    return sum(weight.numel() for weight in made.parameters())


def absent_names(info: dict[str, Any]) -> list[str]:
    """Of weights that a load found missing, or of another shape: those are listed with their shapes."""
    entries: Collection[Any] = [*info["missing_keys"], *info.get("mismatched_keys", ())]
    return [str(entry[0] if isinstance(entry, tuple) else entry) for entry in entries]


def first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
