"""Which images a pipeline's walk draws: prompts in turn, or classes from all over them."""

from __future__ import annotations

from dataclasses import dataclass

from dsr_export.pipelines.recipe import Recipe
from dsr_export.pipelines.wish import Wish


@dataclass(frozen=True, kw_only=True)
class Images:
    """`count` of them, `steps` of the pipeline's scheduler each (None: as many as it takes by itself), of the noise of
    `seed`: of `prompts` in turn, or of classes, where there are none."""

    count: int
    steps: int | None = None
    seed: int = 0
    prompts: tuple[str, ...] = ()

    def prompt(self, image: int) -> str:
        """What the image is of."""
        return self.prompts[image % len(self.prompts)]

    def wish(self, recipe: Recipe, which: range) -> Wish:
        """Those in `which`, as far as there are any; what one is does not depend on the others.

        Guided as the pipeline does it by itself; where its model has nothing to be guided away from, not at all.
        """
        images = range(which.start, min(which.stop, self.count))
        classes = max(recipe.num_classes, 1)
        prompts = tuple(self.prompt(i) for i in images) if self.prompts else ()
        labels = () if self.prompts else tuple(i * classes // self.count for i in images)
        guidance = None if recipe.guides or recipe.true_guidance else 1.0
        return Wish(
            prompts=prompts, labels=labels, seed=self.seed, first=images.start, steps=self.steps, guidance=guidance
        )
