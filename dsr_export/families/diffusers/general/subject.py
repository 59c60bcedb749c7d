"""A transformer of any class that the table of recipes knows, as a `Subject`; its outputs are learnt by running it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.utils._pytree import tree_leaves

from dsr_export.declarations.weight_file import WeightFile
from dsr_export.errors import ExportError, did_you_mean
from dsr_export.example_rows.drawn import Draw
from dsr_export.families.diffusers.files import TransformerFolder
from dsr_export.families.diffusers.general.adapter import GeneralDenoiser
from dsr_export.families.diffusers.general.call import Call, call_of
from dsr_export.families.diffusers.general.draws import draw_of
from dsr_export.families.diffusers.general.freezing import freeze
from dsr_export.families.diffusers.general.joined import joined_rows
from dsr_export.families.diffusers.general.recipes.classes import recipe_of
from dsr_export.families.diffusers.general.recipes.recipe import Given
from dsr_export.families.diffusers.general.running import COMPARE, DrawnRuns
from dsr_export.families.diffusers.general.sizes import SIZES, Sizes
from dsr_export.families.diffusers.general.treated import treat
from dsr_export.families.diffusers.register_rows import REGISTER_OPTIONS, AskedRegisters
from dsr_export.families.diffusers.weights import build_transformer
from dsr_export.families.fixed_values import fixed_digests
from dsr_export.families.request import FamilyRequest
from dsr_export.spec import DsrSpec, ReplaceSpec
from dsr_export.subject import Subject
from dsr_export.subjects.module import probe_module
from graphs.artifacts import TensorSpec


def general_subject(
    folder: TransformerFolder, asked: FamilyRequest, weights: Sequence[WeightFile] | int, provenance: Mapping[str, Any]
) -> Subject:
    """The model in `folder`, of any class with a recipe, with these weights, at the sizes in `asked.options`.

    Raises ExportError for what does not fit, and for a model that fails when it is run.
    """
    _check_options(folder.class_name, asked)
    transformer, origin = build_transformer(folder.class_name, folder.config, weights, asked.loras)
    found = {**provenance, **origin}
    seed = weights if isinstance(weights, int) else None
    registers = AskedRegisters(name=folder.name, options=asked.options, count=asked.registers, seed=seed)
    sizes = {name: value for name, value in asked.options.items() if name in SIZES}
    return subject_of(folder.name, folder.class_name, transformer, sizes, found, asked.groups, registers)


def _check_options(class_name: str, asked: FamilyRequest) -> None:
    for option, value in asked.options.items():
        if option in REGISTER_OPTIONS:
            continue
        if option not in SIZES:
            names = f"known options: {', '.join((*SIZES, *REGISTER_OPTIONS))}; the rest is in config.json"
            near = did_you_mean(option, (*SIZES, *REGISTER_OPTIONS))
            raise ExportError(f"{class_name} has no option '{option}'", hint=f"{near} {names}" if near else names)
        if type(value) is not int or not 1 <= value <= SIZES[option]:
            raise ExportError(f"option {option}={value!r} is no whole number from 1 to {SIZES[option]}")


def subject_of(
    name: str,
    class_name: str,
    transformer: Any,
    asked: Mapping[str, int],
    provenance: Mapping[str, Any],
    groups: Sequence[ReplaceSpec] = (),
    registers: AskedRegisters | None = None,
) -> Subject:
    """`transformer`, of the diffusers class `class_name`, at the sizes `asked` (options in `SIZES`).

    Raises ExportError for a class without a recipe, sizes and groups that do not fit, and a model that fails when it
    is run.
    """
    sizes = Sizes(config=dict(transformer.config), recipe=recipe_of(class_name), asked=asked)
    call = call_of(type(transformer), sizes.recipe, sizes)
    module = GeneralDenoiser(transformer, call).eval().requires_grad_(False)
    inputs = tuple(_spec(each, part, sizes) for each, part in call.given.items())
    draws = _draws(call, sizes)
    runs = DrawnRuns(module, inputs, draws)
    if sizes.recipe.frozen:
        freeze(transformer, sizes.recipe.frozen, lambda: runs.untouched(2, class_name))
    registers = AskedRegisters(name=name) if registers is None else registers
    denoiser = treat(runs, groups, registers, class_name)
    outputs = probe_module(module, inputs, draws, {}, limits=(1, None), called=class_name, hint=COMPARE)
    layers = {"layers": [block.name for block in module.blocks]} if module.blocks else {}
    return Subject(
        name=name,
        family="diffusers",
        module=module,
        inputs=inputs,
        outputs=outputs,
        dsr=DsrSpec(denoiser=denoiser),
        config={
            "_class_name": class_name,
            **_public(transformer.config),
            **asked,
            **_constants(call),
            **layers,  # which block each number of a site is
        },
        provenance=dict(provenance),
        outer_modules=outer_modules(transformer),
        draws=draws,
        special_rows=True,
        grid=call.grid,
        text_rows=joined_rows(module.blocks) if module.registers is None else None,
    )


def _constants(call: Call) -> dict[str, Any]:
    """What the graph keeps of a call, told by digests; of `row_constants` one row."""
    plain = {name: value for name, value in call.fixed.items() if not any(map(callable, tree_leaves(value)))}
    parts = {
        "constants": {name: value for name, value in plain.items() if name not in call.rows},
        "row_constants": {name: value for name, value in plain.items() if name in call.rows},
    }
    return {key: fixed_digests(values) for key, values in parts.items() if values}


def _spec(name: str, part: Given, sizes: Sizes) -> TensorSpec:
    words = part.shape if isinstance(part.shape, str) else part.shape(sizes)
    return TensorSpec(name=name, dtype=part.dtype, shape=("batch", *sizes.shape(words)))


def _draws(call: Call, sizes: Sizes) -> dict[str, Draw]:
    found = {name: draw_of(part.draw, sizes) for name, part in call.given.items()}
    return {name: draw for name, draw in found.items() if draw is not None}


def outer_modules(transformer: nn.Module) -> tuple[str, ...]:
    """Embedders and final layers: what lies outside the lists of blocks and holds weights."""
    lists = {name for name, child in transformer.named_children() if isinstance(child, nn.ModuleList | nn.ModuleDict)}
    outer = [
        name
        for name, child in transformer.named_children()
        if name not in lists and any(True for _ in child.parameters())
    ]
    return tuple(f"transformer.{name}" for name in outer)


def _public(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if not name.startswith("_")}
