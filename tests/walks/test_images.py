"""Which images a walk draws: what one is depends on its number alone."""

from __future__ import annotations

import pytest

from dsr_export.bundle.pipeline_record import PipelineRecord
from dsr_export.pipelines.dit import DiT
from dsr_export.pipelines.flux import Flux
from dsr_export.pipelines.recipe import Recipe
from dsr_export.pipelines.sd3 import StableDiffusion3
from dsr_export.walks.images import Images


def _recipe(of: type[Recipe], classes: int = 0) -> Recipe:
    return of(PipelineRecord(class_name=of.names[0], text={}, vae=None, settings={}), (), {}, classes)


def test_prompts_come_in_turn_whatever_the_groups() -> None:
    images, recipe = Images(count=5, steps=3, seed=7, prompts=("a", "b")), _recipe(StableDiffusion3)
    one, two, three = (images.wish(recipe, range(i, i + 2)) for i in (0, 2, 4))
    assert (one.prompts, two.prompts, three.prompts) == (("a", "b"), ("a", "b"), ("a",))
    assert (one.first, two.first, three.first) == (0, 2, 4) and (two.steps, two.seed) == (3, 7)
    assert images.wish(recipe, range(1, 3)).prompts == ("b", "a")


def test_classes_are_from_all_over_them() -> None:
    images, recipe = Images(count=4), _recipe(DiT, 1000)
    assert images.wish(recipe, range(4)).labels == (0, 250, 500, 750)
    assert images.wish(recipe, range(2, 4)).labels == (500, 750)


@pytest.mark.parametrize(
    ("of", "classes", "guides", "guidance"),
    [(StableDiffusion3, 0, True, None), (Flux, 0, False, None), (DiT, 1000, True, None), (DiT, 10, False, 1.0)],
)
def test_it_is_guided_as_the_pipeline_is(of: type[Recipe], classes: int, guides: bool, guidance: float | None) -> None:
    """FLUX takes guidance as an input; a DiT of few classes has none that stands for nothing."""
    recipe = _recipe(of, classes)
    wish = Images(count=1, prompts=() if classes else ("a",)).wish(recipe, range(1))
    assert (recipe.guides, wish.guidance) == (guides, guidance)
