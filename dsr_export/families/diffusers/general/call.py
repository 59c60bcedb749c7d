"""How a class is called: which parameters of its `forward` are inputs of the graph, which are constants."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dsr_export.errors import ExportError
from dsr_export.families.diffusers.general.constants import PLACES
from dsr_export.families.diffusers.general.recipes.classes import BY_HAND
from dsr_export.families.diffusers.general.recipes.common import BY_NAME
from dsr_export.families.diffusers.general.recipes.recipe import ClassRecipe, Fixed, Given, Part
from dsr_export.families.diffusers.general.rotations import ROTATIONS
from dsr_export.families.diffusers.general.sizes import Sizes


@dataclass(frozen=True, kw_only=True)
class Call:
    """`given` are the graph's inputs, in their order; `fixed` the constants, of which `rows` have a batch axis of 1.

    `grid` are the frames, rows and columns of the tokens of the picture or film, of which there are `cells`.
    """

    given: Mapping[str, Given]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    rows: frozenset[str] = frozenset()
    takes_return_dict: bool = True
    one_by_one: bool = False
    returned: str = ""
    frames: int = 0
    cells: int = 0
    grid: tuple[int, int, int] = (1, 1, 1)


def parts_of(made_by: Any, recipe: ClassRecipe) -> dict[str, Part | tuple[Part, ...]]:
    """What each parameter of the class's `forward` is, in their order.

    Raises ExportError for a parameter that no table names: a newer diffusers may have added it.
    """
    table: dict[str, Part | tuple[Part, ...]] = {
        "hidden_states": Given(shape=recipe.latent, means="the noisy latent"),
        **BY_NAME,
        **recipe.parts,
    }
    names = [name for name in inspect.signature(made_by.forward).parameters if name != "self"]
    unknown = [name for name in names if name not in table]
    if unknown:
        raise ExportError(
            f"nothing here knows what {made_by.__name__} takes as {', '.join(unknown)}",
            hint=f"use the diffusers that this version of dsr-export was tried with, or {BY_HAND}",
        )
    return {name: table[name] for name in names}


def call_of(made_by: Any, recipe: ClassRecipe, sizes: Sizes) -> Call:
    """How the class is called at these sizes, with what its config sets."""
    parts = parts_of(made_by, recipe)
    chosen = {name: _chosen(part if isinstance(part, tuple) else (part,), sizes) for name, part in parts.items()}
    there = {name: part for name, part in chosen.items() if part is not None}
    made = {**PLACES, **ROTATIONS}
    return Call(
        given={name: part for name, part in there.items() if isinstance(part, Given)},
        fixed={name: made[part.made](sizes) for name, part in there.items() if isinstance(part, Fixed)},
        rows=frozenset(name for name, part in there.items() if isinstance(part, Fixed) and part.rows),
        takes_return_dict="return_dict" in parts,
        one_by_one=recipe.one_by_one,
        returned=recipe.returned,
        frames=sizes.frames,
        cells=sizes.cells,
        grid=sizes.grid,
    )


def _chosen(parts: tuple[Part, ...], sizes: Sizes) -> Given | Fixed | None:
    """The first that the config calls for."""
    return next((part for part in parts if isinstance(part, Given | Fixed) and sizes.has(part.when)), None)
