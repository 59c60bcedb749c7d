"""The instruction that stands in front of a prompt: the pipeline's own default, as the installed diffusers has it."""

from __future__ import annotations

import functools
import importlib
import inspect

from dsr_export.errors import ExportError

_PARAMETER = "complex_human_instruction"


@functools.cache
def sana_instruction() -> str:
    """Of `SanaPipeline`, its lines joined. Raises ExportError where diffusers is missing, or too old to have one."""
    hint = "install the extra: pip install 'dsr-export[models]'"
    try:
        pipeline = getattr(importlib.import_module("diffusers"), "SanaPipeline", None)
    except (ImportError, RuntimeError) as error:  # the second: what its lazy imports make of the first
        raise ExportError(f"Sana's instruction is read off the package diffusers ({error})", hint=hint) from error
    parameter = None if pipeline is None else inspect.signature(pipeline.__call__).parameters.get(_PARAMETER)
    if parameter is None or not isinstance(parameter.default, list):
        raise ExportError("the diffusers installed here has no SanaPipeline with an instruction", hint=hint)
    return "\n".join(parameter.default)
