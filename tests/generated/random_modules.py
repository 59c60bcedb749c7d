"""Random small modules from recipes: a list of blocks with their choices, how they are joined, and what comes out.

`dsr-export build tests.generated.random_modules:build --option recipe='...'` builds one; a failing test prints its own.
"""

from __future__ import annotations

import inspect
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dsr_export.tracing.traced_path import traced_path
from tests.generated import attention_blocks, gate_blocks, norm_blocks, place_blocks, token_blocks  # noqa: F401
from tests.generated.example_rows import example_rows
from tests.generated.grammar import BLOCKS, DIM, Extras

JOINS = ("plain", "residual", "residual", "projected", "scaled")
OUTPUTS = ("one", "one", "pair", "named", "beside")
SIGNATURES = ("exact", "exact", "parameters", "parameters", "keyword_only", "keywords", "values")
EXAMPLES = ("mixed", "mixed", "ones", "prefix")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """`blocks`: kind, its choices, and how it is joined to the tokens. `zero_bias`: rows of zeros stay zero."""

    blocks: tuple[tuple[str, dict[str, Any], str], ...]
    outputs: str = "one"
    signature: str = "parameters"
    example: str = "mixed"
    zero_bias: bool = False
    seed: int = 0

    def needs(self) -> list[str]:
        """The inputs beside `x`, in no particular order of `forward`."""
        return list(dict.fromkeys(name for kind, choice, _ in self.blocks for name in BLOCKS[kind].needs(choice)))

    def refusals(self) -> list[str]:
        """What a refusal may say; nothing where the module must work."""
        said = (BLOCKS[kind].refusal(choice) for kind, choice, _ in self.blocks)
        return [pattern for pattern in said if pattern is not None]

    def text(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def of(cls, text: str) -> Recipe:
        values = json.loads(text)
        return cls(**{**values, "blocks": tuple((kind, choice, join) for kind, choice, join in values["blocks"])})


def draw_recipe(seed: int) -> Recipe:
    """The recipe of a seed. Each kind of block comes first in turn, so that few seeds have them all."""
    rng = random.Random(seed)
    names = list(BLOCKS)
    kinds = [names[seed % len(names)], *rng.choices(names, k=rng.choice((0, 1, 1, 2)))]
    rng.shuffle(kinds)
    return Recipe(
        blocks=tuple((kind, BLOCKS[kind].draw(rng), rng.choice(JOINS)) for kind in kinds),
        outputs=rng.choice(OUTPUTS),
        signature=rng.choice(SIGNATURES),
        example=rng.choice(EXAMPLES),
        zero_bias=rng.random() < 0.5,
        seed=seed,
    )


class RandomModule(nn.Module):
    """The blocks of a recipe in a row; forward takes what they need."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.blocks = nn.ModuleList(BLOCKS[kind](**choice) for kind, choice, _ in recipe.blocks)
        self.projections = nn.ModuleList(nn.Linear(DIM, DIM, bias=not recipe.zero_bias) for _ in recipe.blocks)
        self.gammas = nn.ParameterList(torch.full((DIM,), 0.1) for _ in recipe.blocks)
        if recipe.zero_bias:
            for name, parameter in self.named_parameters():
                if name.endswith("bias") and parameter.ndim == 1:
                    nn.init.zeros_(parameter)

    def run(self, x: Tensor, extras: Mapping[str, Tensor | None]) -> Any:
        given, before = Extras(**extras), x
        for i, (_, _, join) in enumerate(self.recipe.blocks):
            made = self.blocks[i](x if join == "residual" else self.projections[i](x), given)
            if join == "residual":
                x = x + self.projections[i](made)
            elif join == "scaled":
                x = x + self.gammas[i] * made
            else:
                x = made
        return self._outputs(x, before, given)

    def _outputs(self, x: Tensor, before: Tensor, given: Extras) -> Any:
        if self.recipe.outputs == "pair":
            return x, x.mean(dim=1)
        if self.recipe.outputs == "named":
            return {"sample": x, "pooled": x[:, 0], "difference": x - before}
        if self.recipe.outputs == "beside" and given.keep is not None:
            return x, ~given.keep, given.keep.sum(1, keepdim=True)
        return x


class Parameters(RandomModule):
    """Every input is an optional parameter: those that are not given are skipped."""

    def forward(
        self,
        x: Tensor,
        t: Tensor | None = None,
        y: Tensor | None = None,
        c: Tensor | None = None,
        keep: Tensor | None = None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Any:
        return self.run(x, {"t": t, "y": y, "c": c, "keep": keep, "weight": weight, "bias": bias})


class KeywordOnly(RandomModule):
    def forward(
        self,
        x: Tensor,
        *,
        keep: Tensor | None = None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        c: Tensor | None = None,
        y: Tensor | None = None,
        t: Tensor | None = None,
    ) -> Any:
        return self.run(x, {"t": t, "y": y, "c": c, "keep": keep, "weight": weight, "bias": bias})


class Keywords(RandomModule):
    def forward(self, x: Tensor, **extras: Tensor) -> Any:
        return self.run(x, extras)


class Values(RandomModule):
    """All inputs come as `*values`, in the recipe's order."""

    def forward(self, *values: Tensor) -> Any:
        return self.run(values[0], dict(zip(self.recipe.needs(), values[1:], strict=True)))


def _exact(recipe: Recipe) -> RandomModule:
    """With a `forward` that takes just what is needed, as most models are written."""
    names = ", ".join(recipe.needs())
    extras = ", ".join(f"{name!r}: {name}" for name in recipe.needs())
    made: dict[str, Any] = {}
    exec(f"def forward(self, x, {names}): return self.run(x, {{{extras}}})", made)
    return type("Exact", (RandomModule,), {"forward": made["forward"]})(recipe)


KINDS: dict[str, Callable[[Recipe], RandomModule]] = {
    "exact": _exact,
    "parameters": Parameters,
    "keyword_only": KeywordOnly,
    "keywords": Keywords,
    "values": Values,
}


def module_of(recipe: Recipe) -> RandomModule:
    """The module, the same for the same recipe, in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        return KINDS[recipe.signature](recipe).eval()


def build(recipe: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """A module with its example inputs, as the command line takes them."""
    known = Recipe.of(recipe)
    return module_of(known), example_rows(known.needs(), known.example, known.seed)


def call(module: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The outputs by the names that a bundle gives them, on the path that a trace follows."""
    values = any(p.kind is p.VAR_POSITIONAL for p in inspect.signature(module.forward).parameters.values())
    with torch.no_grad(), traced_path():
        made = module(*inputs.values()) if values else module(**inputs)
    if isinstance(made, Mapping):
        return dict(made)
    parts = made if isinstance(made, tuple) else (made,)
    return {"out" if i == 0 else f"out_{i}": part for i, part in enumerate(parts)}
