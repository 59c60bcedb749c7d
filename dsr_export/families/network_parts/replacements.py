"""Applies a `DsrSpec`'s replacement groups to a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, get_args

from torch import Tensor

from dsr_export.checkpoints import StateDict, Wanted, load_into, read_state_dict, require_float
from dsr_export.errors import ExportError
from dsr_export.registers import Choice, RecursiveReplacement, Rule
from dsr_export.spec import ReplaceSpec, Stream

REGISTERS = Wanted(("registers",))
OWN = "diffusion"  # ReplaceSpec.registers: the model's own


class TokenStream(Protocol):
    """A model's residual stream, under the names of `RaeDitConfig`."""

    @property
    def depth(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def register_conditioning(self) -> bool: ...
    @property
    def register_len(self) -> int: ...
    @property
    def register_start(self) -> int: ...


class Replaceable(Protocol):
    """A model, or one of its streams of tokens, whose blocks can be followed by a replacement."""

    @property
    def config(self) -> Any: ...  # a TokenStream, where none is given apart
    def replace_at(self, layers: Sequence[int], replacement: RecursiveReplacement) -> None: ...


def apply_replacements(
    module: Replaceable,
    groups: Sequence[ReplaceSpec],
    *,
    stream: TokenStream | None = None,
    text: Replaceable | None = None,
) -> None:
    """Puts one `RecursiveReplacement` behind each listed block of `module`.

    `stream` describes its tokens; where it is left out, `module.config` does. From `register_start` on, the register
    rows are excluded; before it there are none. `text` takes the groups of the prompt's stream, where the model has
    one. Raises ExportError for groups that do not fit the model, or whose register file does not.
    """
    prompts = [group for group in groups if group.stream == "text"]
    _apply(module, module.config if stream is None else stream, [group for group in groups if group.stream != "text"])
    if prompts and text is None:
        raise ExportError(
            f"replacement at layers {list(prompts[0].layers)}: the model has no prompt's tokens beside the image's",
            hint="leave out stream: models that read the prompt by cross-attention have the image's tokens alone",
        )
    if prompts and text is not None:
        _check_read(text.config, prompts)
        _apply(text, text.config, prompts)


def _apply(module: Replaceable, stream: TokenStream, groups: Sequence[ReplaceSpec]) -> None:
    _check_layers(stream, groups)
    for group in groups:
        _check_group(stream, group)
        state = {} if group.registers == OWN else read_state_dict(Path(group.registers), REGISTERS)
        for layer in group.layers:
            module.replace_at([layer], _replacement(stream, group, layer, state))


def _replacement(stream: TokenStream, group: ReplaceSpec, layer: int, state: StateDict) -> RecursiveReplacement:
    inside = stream.register_conditioning and layer >= stream.register_start
    rows = _register_rows(group, state, stream.hidden_size)
    replacement = RecursiveReplacement(
        rule=group.rule,
        threshold=group.threshold,
        rounds=group.rounds,
        choice=group.choice,
        exclude=range(stream.register_len) if inside else (),
        registers=rows,
        gate_shape=None if rows is None else (len(rows), stream.hidden_size),
    )
    _load_gate(replacement, group, state)
    replacement.source = "" if group.registers == OWN else group.registers
    return replacement


def _load_gate(replacement: RecursiveReplacement, group: ReplaceSpec, state: StateDict) -> None:
    gate = {key: state[key] for key in state if group.choice == "gate" and key != "registers"}
    try:
        load_into(replacement, gate)
    except ExportError as error:
        said = error.message.replace("the checkpoint does not fit the model", "its gate does not fit the model")
        raise ExportError(f"{group.registers}: {said}", hint="`dsr-export fit` makes such files") from error


def _register_rows(group: ReplaceSpec, state: StateDict, dim: int) -> Tensor | None:
    if group.registers == OWN:
        return None
    rows = state.get("registers")
    if rows is None or rows.ndim != 2 or rows.shape[1] != dim or not len(rows):
        found = "none" if rows is None else str(list(rows.shape))
        raise ExportError(
            f"{group.registers}: expected a tensor 'registers' of shape [R, {dim}], found {found}",
            hint="save it with safetensors.torch.save_file({'registers': rows}, FILE)",
        )
    return require_float(Path(group.registers), "registers", rows)


def _check_layers(stream: TokenStream, groups: Sequence[ReplaceSpec]) -> None:
    layers = [layer for group in groups for layer in group.layers]
    for layer in layers:
        if not 0 <= layer < stream.depth:
            raise ExportError(f"replacement at layer {layer}: the model has blocks 0 to {stream.depth - 1}")
        if layers.count(layer) > 1:
            raise ExportError(f"layer {layer} is listed twice for replacement", hint="one per layer and stream")


def _check_read(text: TokenStream, groups: Sequence[ReplaceSpec]) -> None:
    """Behind the last block the image is all that is read on: a site of the prompt's would change nothing."""
    last = text.depth - 1
    if any(last in group.layers for group in groups):
        raise ExportError(
            f"replacement of text tokens at layer {last}: behind the last block nothing reads them",
            hint=f"give layers below {last}",
        )


def _check_group(stream: TokenStream, group: ReplaceSpec) -> None:
    where = f"replacement at layers {list(group.layers)}"
    if group.stream not in get_args(Stream):
        raise ExportError(f"{where}: unknown stream '{group.stream}'", hint="one of " + ", ".join(get_args(Stream)))
    if group.rule not in get_args(Rule):
        raise ExportError(f"{where}: unknown rule '{group.rule}'", hint="one of " + ", ".join(get_args(Rule)))
    if group.choice not in get_args(Choice):
        raise ExportError(f"{where}: unknown choice '{group.choice}'", hint="one of " + ", ".join(get_args(Choice)))
    if not 0 < group.threshold < math.inf:
        raise ExportError(f"{where}: threshold {group.threshold} is not a positive number")
    if group.rounds < 1:
        raise ExportError(f"{where}: rounds is {group.rounds}, but must be at least 1")
    own = group.registers == OWN
    if own and group.choice == "gate":
        raise ExportError(f"{where}: choice 'gate' needs trained weights", hint="set registers to a .safetensors file")
    if own and group.choice == "nearest" and not stream.register_conditioning:
        raise ExportError(
            f"{where}: the model has no registers of its own" + (" for text" if group.stream == "text" else ""),
            hint="set registers to a .safetensors file, or choice to mask or clip",
        )
    if not own and group.choice in ("mask", "clip"):
        raise ExportError(f"{where}: choice '{group.choice}' reads no registers", hint=f"leave registers at '{OWN}'")
