"""A transformer of any class that the table of recipes knows, as a `Subject`; its outputs are learnt by running it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from dsr_export.declarations.weight_file import WeightFile
from dsr_export.errors import ExportError, did_you_mean
from dsr_export.example_rows.drawn import Draw, draw_inputs
from dsr_export.families.config_bounds import MOST_SIDE
from dsr_export.families.diffusers.files import TransformerFolder
from dsr_export.families.diffusers.general.adapter import GeneralDenoiser
from dsr_export.families.diffusers.general.blocks import Block
from dsr_export.families.diffusers.general.call import Call, call_of
from dsr_export.families.diffusers.general.draws import draw_of
from dsr_export.families.diffusers.general.freezing import freeze
from dsr_export.families.diffusers.general.joined import find_blocks
from dsr_export.families.diffusers.general.recipes.classes import recipe_of
from dsr_export.families.diffusers.general.recipes.recipe import Given
from dsr_export.families.diffusers.general.replacing import replace_in
from dsr_export.families.diffusers.general.sizes import Sizes
from dsr_export.families.diffusers.supported import SUPPORTED
from dsr_export.families.diffusers.weights import build_transformer
from dsr_export.families.fixed_values import fixed_digests
from dsr_export.families.request import FamilyRequest
from dsr_export.spec import DenoiserSpec, DsrSpec, ReplaceSpec, Stream
from dsr_export.subject import Subject
from dsr_export.subjects.module import probe_module
from graphs.artifacts import TensorSpec

SIZES: Mapping[str, int] = {
    "latent_height": MOST_SIDE,
    "latent_width": MOST_SIDE,
    "latent_frames": MOST_SIDE,
    "text_tokens": 2**16,
}
"""Options, which are what is static in the graph, and the most that each may be."""


def general_subject(
    folder: TransformerFolder, asked: FamilyRequest, weights: Sequence[WeightFile] | int, provenance: Mapping[str, Any]
) -> Subject:
    """The model in `folder`, of any class with a recipe, with these weights, at the sizes in `asked.options`.

    Raises ExportError for what does not fit, for registers of its own, and for a model that fails when it is run.
    """
    _check_options(folder.class_name, asked)
    transformer, origin = build_transformer(folder.class_name, folder.config, weights, asked.loras)
    found = {**provenance, **origin}
    return subject_of(folder.name, folder.class_name, transformer, asked.options, found, asked.groups)


def _check_options(class_name: str, asked: FamilyRequest) -> None:
    registers = [name for name in asked.options if name.startswith("register_")]
    if asked.registers or registers:
        own = ", ".join(each.class_name for each in SUPPORTED)
        hint = f"these take them: {own}; replacement with registers from a file is for every class"
        raise ExportError(f"{class_name} takes no registers of its own here", hint=hint)
    for option, value in asked.options.items():
        if option not in SIZES:
            names = f"known options: {', '.join(SIZES)}; the rest is in config.json"
            near = did_you_mean(option, tuple(SIZES))
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
    if sizes.recipe.frozen:
        freeze(transformer, sizes.recipe.frozen, lambda: _run(module, inputs, draws, 2))
    blocks = blocks_of(module, inputs, draws) if groups else ()
    if groups:
        replace_in(module, blocks, groups)
    outputs = probe_module(module, inputs, draws, {}, limits=(1, None), called=class_name)
    layers = {"layers": [block.name for block in blocks]} if blocks else {}  # which block each number of a site is
    return Subject(
        name=name,
        family="diffusers",
        module=module,
        inputs=inputs,
        outputs=outputs,
        dsr=DsrSpec(denoiser=DenoiserSpec(kind="none", replace=tuple(groups))),
        config={
            "_class_name": class_name,
            **_public(transformer.config),
            **asked,
            **_constants(call),
            **layers,
        },
        provenance=dict(provenance),
        outer_modules=outer_modules(transformer),
        draws=draws,
        special_rows=True,
    )


def blocks_of(module: GeneralDenoiser, inputs: Sequence[TensorSpec], draws: Mapping[str, Draw]) -> tuple[Block, ...]:
    """Its blocks, found by running it with drawn inputs; see `find_blocks`."""
    return find_blocks(module.transformer, lambda other: _run(module, inputs, draws, 1, other))


def _run(
    module: GeneralDenoiser,
    inputs: Sequence[TensorSpec],
    draws: Mapping[str, Draw],
    count: int,
    other: Stream | None = None,
) -> Any:
    """One call with drawn inputs, the same each time but for those of the stream `other`."""
    rows = draw_inputs(inputs, count, seed=0, draws=draws)
    if other is not None:
        changed = draw_inputs(inputs, count, seed=1, draws=draws)
        rows |= {spec.name: changed[spec.name] for spec in inputs if _stream_of(spec, inputs) == other}
    return module(*(torch.from_numpy(row) for row in rows.values()))


def _stream_of(spec: TensorSpec, inputs: Sequence[TensorSpec]) -> Stream | None:
    """Which stream's tokens an input becomes: the latent's, or a prompt's; None for times, masks and single vectors."""
    if spec.name == next((each.name for each in inputs if each.name == "hidden_states"), inputs[0].name):
        return "image"
    return "text" if len(spec.shape) > 2 or spec.dtype == "int64" else None


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
