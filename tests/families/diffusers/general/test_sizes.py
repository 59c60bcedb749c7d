"""What the words of a shape stand for, and which size wins: the user's, the config's, or the recipe's."""

from __future__ import annotations

from typing import Any

import pytest

from dsr_export.errors import ExportError
from dsr_export.families.diffusers.general.recipes.recipe import PACKED, VIDEO, ClassRecipe
from dsr_export.families.diffusers.general.sizes import Sizes

CONFIG = {"in_channels": 8, "wide": 6, "none": None, "pair": [3, 5], "patch_size": 2, "off": False}


def _sizes(recipe: ClassRecipe | None = None, config: dict[str, Any] | None = None, **asked: int) -> Sizes:
    return Sizes(config={**CONFIG, **(config or {})}, recipe=recipe or ClassRecipe(), asked=asked)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("7", 7),
        ("wide", 6),
        ("none|wide", 6),
        ("pair[1]", 5),
        ("in_channels-wide", 2),
        ("wide+in_channels-wide", 8),
        ("4*wide-7", 17),
        ("text", 256),
    ],
)
def test_a_word_is_a_number(word: str, value: int) -> None:
    assert _sizes().of(word) == value


def test_a_word_that_the_config_does_not_set_is_named() -> None:
    with pytest.raises(ExportError, match="sets no none, and no absent"):
        _sizes().of("none|absent")


def test_what_a_config_sets() -> None:
    sizes = _sizes()
    assert [sizes.has(word) for word in ("", "wide", "none|wide")] == [True] * 3
    assert [sizes.has(word) for word in ("none", "absent", "off", "wide-in_channels")] == [False] * 4


def test_the_user_comes_before_the_config_and_that_before_the_recipe() -> None:
    assert (_sizes().height, _sizes().width) == (64, 64)
    assert (_sizes(config={"sample_size": 16}).height, _sizes(config={"sample_size": [16, 24]}).width) == (16, 24)
    film = _sizes(ClassRecipe(latent=VIDEO, frames=3), {"sample_height": 30, "sample_width": 40}, latent_width=20)
    assert (film.frames, film.height, film.width, film.grid) == (3, 30, 20, (3, 15, 10))


def test_tokens_that_a_pipeline_packs_are_not_cut_again() -> None:
    packed = _sizes(ClassRecipe(latent=PACKED, pack=2), latent_height=8, latent_width=12)
    assert (packed.grid, packed.tokens) == ((1, 4, 6), 24)


@pytest.mark.parametrize(
    ("patch", "asked", "message"),
    [
        (2, {"latent_height": 9}, "patches of 2 do not divide a latent height of 9"),
        ([2, 1, 1], {"latent_frames": 3}, "patches of 2 frames do not divide 3 latent frames"),
    ],
)
def test_patches_that_do_not_divide(patch: Any, asked: dict[str, int], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        _ = _sizes(ClassRecipe(latent=VIDEO), {"patch_size": patch}, **asked).grid
