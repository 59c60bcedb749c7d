"""A transformer of any class that the table of recipes knows, as a `Subject`; its outputs are learnt by running it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dsr_export.example_rows.drawn import Draw, draw_inputs
from dsr_export.families.diffusers.general.adapter import GeneralDenoiser
from dsr_export.families.diffusers.general.call import Call, call_of, recipe_of
from dsr_export.families.diffusers.general.draws import draw_of
from dsr_export.families.diffusers.general.freezing import freeze
from dsr_export.families.diffusers.general.recipe import Given
from dsr_export.families.diffusers.general.sizes import Sizes
from dsr_export.spec import DsrSpec
from dsr_export.subject import Subject
from dsr_export.subjects.module import probe_module
from graphs.artifacts import TensorSpec

SIZES = ("latent_height", "latent_width", "latent_frames", "text_tokens")
"""Options: what is static in the graph."""


def general_subject(
    name: str, class_name: str, transformer: Any, asked: Mapping[str, int], provenance: Mapping[str, Any]
) -> Subject:
    """`transformer`, of the diffusers class `class_name`, at the sizes `asked` (options in `SIZES`).

    Raises ExportError for a class without a recipe, sizes that do not fit, and a model that fails when it is run.
    """
    sizes = Sizes(config=dict(transformer.config), recipe=recipe_of(class_name), asked=asked)
    call = call_of(type(transformer), sizes.recipe, sizes)
    module = GeneralDenoiser(transformer, call).eval().requires_grad_(False)
    inputs = tuple(_spec(each, part, sizes) for each, part in call.given.items())
    draws = _draws(call, sizes)
    if sizes.recipe.frozen:
        rows = draw_inputs(inputs, 2, seed=0, draws=draws).values()
        freeze(transformer, sizes.recipe.frozen, lambda: module(*(torch.from_numpy(row) for row in rows)))
    outputs = probe_module(module, inputs, draws, {}, limits=(1, None), called=class_name)
    return Subject(
        name=name,
        family="diffusers",
        module=module,
        inputs=inputs,
        outputs=outputs,
        dsr=DsrSpec(),
        config={"_class_name": class_name, **_public(transformer.config), **asked},
        provenance=dict(provenance),
        outer_modules=outer_modules(transformer),
        draws=draws,
        special_rows=True,
    )


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
