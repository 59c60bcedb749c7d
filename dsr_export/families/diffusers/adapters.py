"""The adapter of a diffusers class, imported when it is called for."""

from __future__ import annotations

import importlib

from dsr_export.families.diffusers.supported import SUPPORTED
from dsr_export.families.diffusers.wrapper import DiffusersDenoiser


def adapter_of(class_name: str) -> type[DiffusersDenoiser]:
    """The adapter of a supported diffusers class. KeyError for any other."""
    module, name = {each.class_name: each.adapter for each in SUPPORTED}[class_name].split(":")
    adapter: type[DiffusersDenoiser] = getattr(importlib.import_module(module), name)
    return adapter
