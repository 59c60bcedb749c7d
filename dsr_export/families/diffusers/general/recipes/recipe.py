"""What a recipe can say of one parameter of a class's `forward`, and of the class. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dsr_export.families.diffusers.general.sizes import Sizes

IMAGE = "in_channels height width"
VIDEO = "in_channels frames height width"
PACKED = "tokens in_channels"


@dataclass(frozen=True, kw_only=True)
class Given:
    """An input of the graph, [batch, *shape]. `shape` is words that `Sizes.of` knows, or makes such words.

    It is there where `Sizes.has` the word `when` (always, without it), drawn as `draw` says (a name that `draw_of`
    knows), and handed over as `passed` says (a name in `adapter.PASSED`; without it, as it is).
    """

    shape: str | Callable[[Sizes], str]
    means: str
    draw: str = "normal"
    dtype: str = "float32"
    when: str = ""
    passed: str = ""


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """A constant that the adapter keeps, as pipelines compute it: `constants` names the function that makes it.

    With `rows` it is a tensor [1, ...] that is the same for each row of the batch.
    """

    made: str
    means: str
    when: str = ""
    rows: bool = False


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A parameter that keeps its default."""

    why: str


Part = Given | Fixed | LeftOut


@dataclass(frozen=True, kw_only=True)
class ClassRecipe:
    """How a class differs from the common table (`common.BY_NAME`): `parts`, by parameter, stand before it.

    `latent` is the shape of `hidden_states`. `pack` is how many cells a side of the latent its pipeline, not the model,
    puts into one token. `text`, `patches` (a side) and `frames` are sizes where neither config nor user has one; a word
    is looked up. `one_by_one`: it takes no batch. `frozen` is a submodule
    that is fed constants only. Of several parts, the first that is there counts.
    """

    latent: str = IMAGE
    parts: Mapping[str, Part | tuple[Part, ...]] = field(default_factory=dict)
    pack: int = 1
    text: int | str = 256
    frames: int | str = 1
    patches: int = 32
    one_by_one: bool = False
    returned: str = ""
    frozen: str = ""


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A class that cannot be one graph, and why."""

    why: str
