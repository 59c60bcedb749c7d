"""Pipelines that keep their parts off the GPU between calls: `pipe.enable_model_cpu_offload()`."""

from __future__ import annotations

from typing import Any


def hook_again(pipe: Any) -> None:
    """Offloads the parts that stand in `pipe` now, where it offloads any.

    diffusers hooks those of the moment, and asks the first for the place of all that it makes; of parts without a hook
    the pipeline would go on where they lie, which is the CPU.
    """
    if getattr(pipe, "_all_hooks", None):
        pipe.maybe_free_model_hooks()
