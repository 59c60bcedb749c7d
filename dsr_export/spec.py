"""`DsrSpec`: what is done to a model's tokens. Read from a family's config or `--dsr FILE`, kept in the manifest."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Literal

Stream = Literal["image", "text"]


@dataclass(frozen=True, kw_only=True)
class ReplaceSpec:
    """One group of replacement sites: outliers in the output tokens of each of `layers` are replaced.

    `stream` says which tokens: the image's (or film's), or those of the prompt where a model keeps both.
    """

    layers: tuple[int, ...]
    rule: Literal["absolute", "median", "sigma"]
    threshold: float
    rounds: int = 1
    choice: Literal["nearest", "gate", "mask", "clip"] = "nearest"
    registers: str = "diffusion"  # the model's own, or a .safetensors file
    stream: Stream = "image"


@dataclass(frozen=True, kw_only=True)
class DenoiserSpec:
    """Registers of a denoiser: `registers` rows prepended before block `start`, and run-time replacement.

    In sequences that also hold the prompt's tokens, registers come before the image's: `rows` says which row is the
    first, by the sequence's length. It is 0 elsewhere.
    """

    kind: Literal["diffusion", "none"] = "none"
    registers: int = 0
    start: int = 0
    rows: Mapping[int, int] = field(default_factory=dict)
    replace: tuple[ReplaceSpec, ...] = ()

    @property
    def replacement_sites(self) -> int:
        return sum(len(group.layers) for group in self.replace)


@dataclass(frozen=True, kw_only=True)
class EncoderSpec:
    """Registers of an encoder: `trained` ones of the checkpoint, `appended` ones from a file, or `test-time` ones.

    `appended` are trained rows at the end of the sequence (`register_file`); `test-time` are rows of zeros there, onto
    which the activations of the listed `neurons` (layer -> indices into the MLP's hidden width) are moved.
    """

    kind: Literal["trained", "appended", "test-time", "none"] = "none"
    registers: int = 0
    scale: tuple[float, ...] = (1.0,)  # one for all registers, or one each
    normal_values: Literal["zero", "mean", "only_outliers", "same"] = "zero"
    neurons: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    register_file: str = ""

    @property
    def shift_sites(self) -> int:
        return len(self.neurons) if self.kind == "test-time" else 0


@dataclass(frozen=True, kw_only=True)
class DsrSpec:
    """Everything declared about a model's registers; the lowering must find exactly these sites."""

    denoiser: DenoiserSpec = field(default_factory=DenoiserSpec)
    encoder: EncoderSpec = field(default_factory=EncoderSpec)

    def sites(self) -> dict[str, int]:
        """Symbolic op type -> number of nodes the traced graph must hold."""
        return {
            "ReplaceOutliers": self.denoiser.replacement_sites,
            "ShiftRegisterNeurons": self.encoder.shift_sites,
        }

    def as_dict(self) -> dict[str, Any]:
        """JSON values. Of files of registers the names alone: where they lay is of no use to whoever gets a bundle."""
        plain = dataclasses.asdict(self)
        for group in plain["denoiser"]["replace"]:
            group["registers"] = PurePath(group["registers"]).name
        plain["encoder"]["register_file"] = PurePath(self.encoder.register_file).name
        rows = plain["denoiser"].pop("rows")
        if rows:
            plain["denoiser"]["rows"] = {str(length): first for length, first in sorted(rows.items())}
        neurons = self.encoder.neurons
        plain["encoder"]["neurons"] = {str(layer): list(indices) for layer, indices in sorted(neurons.items())}
        return plain
