"""`FamilyRequest`: what a user asked of one of the families. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dsr_export.config import ModelRequest
from dsr_export.declarations.lora_file import LoraFile
from dsr_export.declarations.weight_file import WeightFile
from dsr_export.spec import EncoderSpec, ReplaceSpec


@dataclass(frozen=True, kw_only=True)
class FamilyRequest:
    """Which model, with which weights, and what is done to its tokens. A family's `load` makes a `Subject` of it.

    `model` is what the subject is called: a registered name, except where a file describes the model. `checkpoint` is
    a file of weights, or a folder, and `weights` says which of those in it (`WeightFile.entry`); `random_weights` is
    a seed. `registers` is R (0: none; None: what the checkpoint or the model has), `replace` the replacement groups
    (None: the model's own), `dsr` a TOML file that declares both, which `with_declaration` takes in, `encoder` what
    such a file declared of an encoder. `options` are constructor arguments of the family, as yet unchecked, `loras`
    adapters of a diffusers transformer.
    """

    model: str
    checkpoint: Path | None = None
    weights: str | None = None
    random_weights: int | None = None
    registers: int | None = None
    replace: tuple[ReplaceSpec, ...] | None = None
    dsr: Path | None = None
    encoder: EncoderSpec | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    loras: tuple[LoraFile, ...] = ()

    @classmethod
    def of(cls, request: ModelRequest, **other: Any) -> FamilyRequest:
        """What `request` says of these fields, but for those in `other`."""
        same = {
            "model": request.model,
            "checkpoint": request.checkpoint,
            "weights": request.weights,
            "random_weights": request.random_weights,
            "registers": request.registers,
            "dsr": request.dsr,
            "options": request.options,
            "loras": request.loras,
        }
        return cls(**{**same, **other})

    @property
    def weight_file(self) -> WeightFile | None:
        """The checkpoint, with the choice of weights in it."""
        return None if self.checkpoint is None else WeightFile(self.checkpoint, self.weights)

    @property
    def groups(self) -> tuple[ReplaceSpec, ...]:
        """The replacement groups; none where none are asked for."""
        return self.replace or ()
