"""`--dsr` for an ONNX file: what the declaration asks of the graph, checked against the blocks that are found in it.

The rules for a replacement group are those of `families.replacements`, with two differences that come from the form:
an ONNX graph does not say which rows are its registers, and it holds no gate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx

from dsr_export.declarations.dsr_file import OWN, DsrFile
from dsr_export.errors import ExportError
from dsr_export.spec import DenoiserSpec, DsrSpec, EncoderSpec, ReplaceSpec
from graphs.retrofit.insertion import ReplacementSite, Retrofit, ShiftSites

if TYPE_CHECKING:
    from dsr_export.registers import RecursiveReplacement

Array = npt.NDArray[Any]


def insertable(file: DsrFile) -> DsrSpec:
    """The declaration, where it is one that can be inserted into a graph. Raises `ExportError` with the way out."""
    spec, given = file.spec, file.given
    if file.register_file is not None:
        raise ExportError(
            "register_file prepends registers to a diffusers model; an ONNX graph cannot be given diffusion registers",
            hint="export the model with its registers, or replace by those of a file ([[denoiser.replace]])",
        )
    if "encoder" in given and spec.encoder.kind != "test-time":
        raise ExportError(
            f"[encoder] kind '{spec.encoder.kind}' changes nothing in an ONNX graph",
            hint="remove the table; test-time registers and replacement are what can be inserted",
        )
    if "encoder" in given and "denoiser" in given:
        raise ExportError("an ONNX graph is an encoder or a denoiser, and --dsr declares both", hint="keep one table")
    if not any(spec.sites().values()):
        raise ExportError("--dsr declares no site to insert", hint="add [[denoiser.replace]], or leave --dsr out")
    for group in spec.denoiser.replace:
        _check_own(group)
    return spec


def _check_own(group: ReplaceSpec) -> None:
    if group.registers == OWN and group.choice in ("nearest", "gate"):
        raise ExportError(
            f"replacement at layers {list(group.layers)}: registers '{OWN}' are the model's own, and an ONNX graph "
            "does not say which rows these are",
            hint="set registers to a .safetensors file with a tensor 'registers' [R, D], or choice to mask or clip",
        )


def with_sites(found: Retrofit, spec: DsrSpec) -> onnx.ModelProto:
    """The model with the sites of `spec`, symbolic.

    Raises:
        ExportError: a layer, neuron or register width that the graph does not have, or tokens that it cannot take.
    """
    if spec.encoder.kind == "test-time":
        return found.with_test_time_registers(_shifts(spec.encoder))
    return found.with_replacements(_replacements(found, spec.denoiser))


def _shifts(encoder: EncoderSpec) -> ShiftSites:
    return ShiftSites(
        neurons=encoder.neurons,
        registers=encoder.registers,
        scale=encoder.scale * encoder.registers if len(encoder.scale) == 1 else encoder.scale,
        normal_values=encoder.normal_values,
    )


@dataclass(frozen=True, kw_only=True)
class _Blocks:
    """The stream under the names that `apply_replacements` asks for; keeps what is put behind each block."""

    depth: int
    hidden_size: int
    register_conditioning: bool
    register_len: int
    register_start: int
    placed: dict[int, RecursiveReplacement] = field(default_factory=dict)

    @property
    def config(self) -> _Blocks:
        return self

    def replace_at(self, layers: Sequence[int], replacement: RecursiveReplacement) -> None:
        self.placed.update(dict.fromkeys(layers, replacement))


def _replacements(found: Retrofit, denoiser: DenoiserSpec) -> list[ReplacementSite]:
    from dsr_export.families.network_parts.replacements import apply_replacements

    for layer in (layer for group in denoiser.replace for layer in group.layers):
        found.block(layer)
    if denoiser.kind == "diffusion":
        _check_prepended(found, denoiser)
    blocks = _Blocks(
        depth=len(found.stream.blocks),
        hidden_size=found.stream.blocks[0].channels,
        register_conditioning=denoiser.kind == "diffusion",
        register_len=denoiser.registers,
        register_start=denoiser.start,
    )
    apply_replacements(blocks, denoiser.replace)
    return [_site(layer, placed, blocks.hidden_size) for layer, placed in sorted(blocks.placed.items())]


def _site(layer: int, placed: RecursiveReplacement, channels: int) -> ReplacementSite:
    weights = [placed.registers] if placed.registers is not None else []
    if placed.choice == "gate":
        weights += [placed.choice_weight, placed.gate_weight, placed.gate_bias]
    arrays = [weight.detach().numpy() for weight in weights] or [np.zeros((1, channels), np.float32)]
    return ReplacementSite(
        layer=layer,
        weights=tuple(arrays),
        rule=placed.rule,
        threshold=placed.threshold,
        rounds=placed.rounds,
        choice=placed.choice,
        exclude=tuple(placed.exclude),
    )


def _check_prepended(found: Retrofit, denoiser: DenoiserSpec) -> None:
    """The rows that are left out of detection must be there: the graph shows how many are put before the tokens."""
    first = found.block(denoiser.start)
    rows = found.prepended_rows(denoiser.start)
    if rows != denoiser.registers:
        raise ExportError(
            f"[denoiser] declares {denoiser.registers} registers from block {denoiser.start}, and the graph puts "
            f"{rows or 'no'} rows before the tokens of {first.name}",
            hint="set registers and start to what the model was exported with, or leave them out to exclude no rows",
        )
    for block in found.stream.blocks[denoiser.start :]:
        if block.tokens != first.tokens:
            raise ExportError(
                f"{block.name} has {block.tokens} tokens and {first.name} {first.tokens}: which rows are registers is "
                "not known there",
                hint="leave [denoiser] registers out to exclude no rows",
            )
