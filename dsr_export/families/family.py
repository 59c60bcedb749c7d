"""`Family`: one architecture of denoisers, and how a registered model of it is built from a checkpoint or a seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from torch import Tensor

from dsr_export.checkpoints import StateDict, Wanted, load_into, read_checkpoint
from dsr_export.errors import ExportError
from dsr_export.families.digests import file_sha256
from dsr_export.families.inserted_registers import TOKENS, inserted_rows, set_registers, with_registers
from dsr_export.families.network_parts.randomise import drawn, without_memory
from dsr_export.families.network_parts.trunk import Trunk
from dsr_export.families.request import FamilyRequest
from dsr_export.families.schema import Config, Schema, Value, resolve
from dsr_export.families.shapes import Widths

Module = TypeVar("Module", bound=Trunk)
KNOWN_NAMES = Wanted(
    (
        *(f"blocks.0.{name}.weight" for name in ("attn.qkv", "attn.proj", "adaLN_modulation.1")),
        *(f"t_embedder.mlp.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")),
        *("y_embedder.embedding_table.weight", "final_layer.linear.weight", "final_layer.linear.bias"),
        *(f"transformer_blocks.0.attn1.to_{part}.weight" for part in "qkv"),
        *("pos_embed.proj.weight", "proj_out_1.weight", "proj_out_1.bias", "proj_out_2.weight", "proj_out_2.bias"),
    )
)
"""By which a denoiser's weights are found among others: names that all of these families have, and diffusers' DiT."""


@dataclass(frozen=True, kw_only=True)
class Family(Generic[Config]):
    """One architecture. `widths_of` reads a configuration, `widths_in` a checkpoint (None: not one of this family).

    `sizes` are the registered models, `base` is what every model has unless weights or options say otherwise;
    `takes_registers` says that a checkpoint without registers can be given some.
    """

    schema: Schema[Config]
    module: Callable[[Config], Trunk]
    sizes: Mapping[str, Mapping[str, Value]]
    widths_of: Callable[[Config], Widths]
    widths_in: Callable[[Mapping[str, Tensor]], Widths | None]
    base: Mapping[str, Value] = field(default_factory=dict)
    takes_registers: bool = True

    @property
    def name(self) -> str:
        """Also what the model of any size is called."""
        return self.schema.family


def load_module(family: Family[Any], asked: FamilyRequest, weights: StateDict | int) -> Trunk:
    """The model of `family` that is asked for. Raises ExportError where options and weights do not fit."""
    name = asked.model
    if name == family.name:
        _check_free(family, asked.options)
    own = not isinstance(weights, int) and TOKENS in weights
    asked, rows = inserted_rows(asked, takes=family.takes_registers, own=own)
    if rows is not None and not isinstance(weights, int):
        weights = with_registers(weights, rows)
    base = {**family.base, **family.sizes.get(name, {})}
    state = None if isinstance(weights, int) else weights
    resolved = resolve(family.schema, base, registers=asked.registers, options=asked.options, state=state)
    if state is not None:
        check_widths(family, name, resolved, state)
    module = build(family.module, resolved, weights)
    if rows is not None and isinstance(weights, int):
        set_registers(module, rows)
    return module


def read_weights(asked: FamilyRequest) -> tuple[StateDict | int, dict[str, Any]]:
    """A checkpoint's tensors, or else the seed; and the provenance either gives."""
    file = asked.weight_file
    if file is not None:
        found = read_checkpoint(file, KNOWN_NAMES)
        return found.state, {"checkpoint_sha256": file_sha256(file.path), "weights": found.origin}
    if asked.random_weights is None:
        raise ExportError("no weights are given", hint="give --checkpoint FILE or --random-weights SEED")
    return asked.random_weights, {"random_seed": asked.random_weights}


def build(make: Callable[[Config], Module], config: Config, weights: StateDict | int) -> Module:
    """The module with the tensors in `weights`, or drawn from that seed. Raises ExportError where they do not fit."""
    if isinstance(weights, int):
        return drawn(make, config, weights)
    module = without_memory(make, config)
    load_into(module, weights)
    return module


def check_widths(family: Family[Any], name: str, config: Any, state: Mapping[str, Tensor]) -> None:
    """A checkpoint of another size or family is named at once, rather than by 300 shape mismatches."""
    found, wanted = family.widths_in(state), family.widths_of(config)
    if found is None or found == wanted:
        return
    fitting = [size for size, s in family.sizes.items() if family.widths_of(resolve(family.schema, s)) == found]
    raise ExportError(
        f"the checkpoint has hidden size {found[0]} and {found[1]} blocks, '{name}' {wanted[0]} and {wanted[1]}",
        hint=f"use {fitting[0]}" if fitting else f"use {family.name} with hidden_size, depth and num_heads",
    )


def _check_free(family: Family[Any], options: Mapping[str, Any]) -> None:
    absent = [field for field in ("hidden_size", "depth", "num_heads") if field not in options]
    if absent:
        raise ExportError(
            f"model '{family.name}' needs {', '.join(absent)}",
            hint="give them, or name a size: " + ", ".join(family.sizes),
        )
