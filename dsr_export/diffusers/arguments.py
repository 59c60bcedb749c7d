"""What a transformer is called with, as the inputs of its graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dsr_export.bundle.manifest import Manifest
from dsr_export.diffusers.running import Running
from dsr_export.errors import ExportError
from dsr_export.families.fixed_values import fixed_digest
from graphs.artifacts import TensorSpec

SAME: Mapping[str, str] = {"x": "hidden_states", "t": "timestep", "y": "class_labels"}
"""Names of graphs' inputs that are not those of diffusers."""
PLAIN = ("return_dict",)


def graph_inputs(running: Running, called: Mapping[str, Any]) -> dict[str, Tensor]:
    """The graph's inputs in their order and types where it runs, from the arguments of one call by name.

    Raises:
        ExportError: one that the graph lacks or has as another constant, one that is missing, another shape, or a
            batch that the bundle was not built for.
    """
    specs = running.manifest.input_specs()
    given = _spread(called)
    latent = given.get(SAME.get(specs[0].name, specs[0].name))
    if not isinstance(latent, Tensor):
        raise ExportError(f"the pipeline gives no {specs[0].name}", hint="call it as diffusers' own pipelines do")
    batch = len(latent)
    running.check_batch(batch)
    made = {}
    for spec in specs:
        value = given.pop(SAME.get(spec.name, spec.name), None)
        made[spec.name] = _tensor(spec, value, batch, running.device)
    _check_rest(running.manifest, given)
    return made


def _spread(called: Mapping[str, Any]) -> dict[str, Any]:
    """With what a dictionary among them holds (`added_cond_kwargs`) under its own names."""
    found = {name: value for name, value in called.items() if not isinstance(value, Mapping) and name not in PLAIN}
    for value in called.values():
        found |= value if isinstance(value, Mapping) else {}
    return found


def _tensor(spec: TensorSpec, value: Any, batch: int, device: torch.device) -> Tensor:
    wanted = list(spec.with_batch(batch))
    if value is None and "mask" in spec.name:
        value = torch.ones(wanted)  # every token counts, as diffusers takes it
    if value is None:
        raise ExportError(f"the pipeline gives no '{spec.name}'", hint="the bundle takes it: give it to the pipeline")
    found = torch.as_tensor(value)
    while found.ndim < len(wanted):
        found = found[None]
    if len(found) == 1 < batch:
        found = found.expand(batch, *found.shape[1:])
    if list(found.shape) != wanted:
        raise ExportError(
            f"the pipeline gives '{spec.name}' in the shape {list(found.shape)}, and the bundle takes {wanted}",
            hint="height, width, frames and the number of the prompt's tokens are those that it was built for",
        )
    return found.to(device, getattr(torch, spec.dtype)).contiguous()


def _check_rest(manifest: Manifest, given: Mapping[str, Any]) -> None:
    """What the graph takes no more must be what it was built with."""
    config = manifest.model["config"]
    by_row: Mapping[str, str] = config.get("row_constants", {})
    constants: Mapping[str, str] = {**config.get("constants", {}), **by_row}
    for name, value in given.items():
        if value is None or (isinstance(value, list | tuple) and not value):
            continue
        by_rows = name in by_row or isinstance(value, list)  # lists hold something for each row
        rows = [value[i : i + 1] for i in range(len(value))] if by_rows else [value]
        if name not in constants:
            hint = "leave it out of the call; the scale of a LoRA is that of its build, --lora FILE:SCALE"
            raise ExportError(f"the pipeline gives '{name}', which this bundle was built without", hint=hint)
        if any(fixed_digest(row) != constants[name] for row in rows):
            raise ExportError(
                f"the pipeline gives another '{name}' than the bundle was built with",
                hint="height, width, frames and the number of the prompt's tokens are those that it was built for",
            )
