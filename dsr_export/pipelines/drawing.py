"""From prompts, or classes, to pictures: the walk of a pipeline through the models of its bundle, in numpy.

Shapes: n images, latents [n, C, h, w].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.backends.opening import Say
from dsr_export.backends.runtime_names import Runtime
from dsr_export.bundle.pipeline_record import SCHEDULER
from dsr_export.bundle.reader import Bundle
from dsr_export.errors import ExportError, RunnerError
from dsr_export.images.finite import finite
from dsr_export.parity.batch_calls import in_batches
from dsr_export.pipelines.models import PipelineModel
from dsr_export.pipelines.prompting import encoded_prompts
from dsr_export.pipelines.recipe import Encoded, Recipe
from dsr_export.pipelines.table import recipe_of
from dsr_export.pipelines.wish import Wish
from dsr_export.progress import Bar
from dsr_export.samplers import sampler_from_config
from dsr_export.samplers.sampler import Walk
from dsr_export.sampling import seeded_noise
from graphs.foreign.small_files import read_json_object

Array = npt.NDArray[Any]
Inputs = dict[str, Array]
PROMPT_MASK = "prompt_mask"
"""No input of the transformer: which of its prompt tokens are the prompt's (1), and which padding (0)."""


@dataclass(frozen=True)
class LatentStep:
    """One step of the scheduler: what the model was told of the time, and the latents behind the step."""

    index: int
    count: int
    time: float
    latents: Array


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """A whole pipeline, of a bundle or not, ready to draw.

    `told` is given the transformer's inputs that do not change, at the start of a walk: n rows, and where it is guided
    n rows of nothing before them; beside them `PROMPT_MASK` [rows, T], where prompts have tokens in the transformer.
    """

    bundle: PipelineModel
    recipe: Recipe
    scheduler: Mapping[str, Any]
    runtime: Runtime = "auto"
    say: Say | None = None
    told: Callable[[Inputs], None] | None = None

    @classmethod
    def of(cls, bundle: Bundle, *, runtime: Runtime = "auto", say: Say | None = None) -> Pipeline:
        """Raises ExportError where the bundle holds no pipeline, or one that is not known here."""
        record, manifest = bundle.manifest.pipeline, bundle.manifest
        if record is None:
            raise ExportError(f"{bundle.path} holds no pipeline", hint="build one: --model-dir FOLDER --components all")
        made = recipe_of(record.class_name, str(bundle.path))
        recipe = made(record, manifest.inputs, manifest.model["config"], int(manifest.model["num_classes"]))
        scheduler = read_json_object(bundle.file(SCHEDULER), hint="build the bundle again")
        return cls(bundle=bundle, recipe=recipe, scheduler=scheduler, runtime=runtime, say=say)

    def noise(self, wish: Wish) -> Array:
        """The latents [n, C, h, w] float32 that a walk begins with: standard normal, row i whatever n is."""
        shape = self.recipe.latent
        if wish.noise is None:
            return seeded_noise(wish.seed, wish.count, shape, first=wish.first)
        if wish.noise.shape != (wish.count, *shape):
            raise ExportError(f"noise of {list(wish.noise.shape)} for latents of {[wish.count, *shape]}")
        return np.asarray(wish.noise, np.float32)

    def walk(self, wish: Wish) -> Iterator[LatentStep]:
        """Every step from noise to the finished latents.

        Raises:
            ExportError: prompts for a model of classes or the other way round, a class that does not exist, steps that
                the scheduler does not take, or a model that can't run here or makes NaN.
        """
        if not wish.count:
            raise ExportError("nothing is to be drawn", hint="give prompts, or classes")
        recipe = self.recipe
        walk = schedule(recipe, self.scheduler, wish.steps)
        scale = self._scale(wish)
        conditions = self._conditions(wish, guided=scale is not None)
        if self.told is not None:
            self.told(conditions)
        state = recipe.packed(self.noise(wish))
        if recipe.started:
            state = np.asarray(state * np.float32(walk.initial_scale), np.float32)
        count = len(walk.timesteps)
        with self.bundle.runner(self.runtime, say=self.say) as runner:
            for i, step in enumerate(walk.timesteps):
                time = recipe.time(float(step))
                given = walk.scaled(state, i) if recipe.scaled else state
                inputs = self._inputs(conditions, given, time)
                made = in_batches(runner.infer, inputs, self.bundle.manifest.batch_range())
                prediction = _guided(_first(made, state), wish.count, scale)
                noise = recipe.packed(self._later_noise(wish, i)) if walk.needs_noise else None
                state = np.asarray(walk.step(prediction, i, state, noise), np.float32)
                finite(state, f"step {i + 1}", "transformer")
                yield LatentStep(i, count, time, recipe.unpacked(state))

    def decode(self, latents: Array, progress: Bar | None = None) -> Array:
        """Finished latents -> pictures [n, 3, H, W] float32 in about [-1, 1]. ExportError without a decoder."""
        decoder = self.bundle.component("vae")
        with decoder.runner(self.runtime, say=self.say) as runner:
            inputs = {"z": self.recipe.decoded(latents)}
            made = in_batches(runner.infer, inputs, decoder.manifest.batch_range())
        if progress is not None:
            progress(len(latents), len(latents))
        return finite(np.asarray(made["image"], np.float32), "the picture", "vae")

    def _scale(self, wish: Wish) -> np.float32 | None:
        """By which predictions are guided away from the negative prompt; None where they are not.

        What diffusers leaves out without a word is said: a negative prompt that does not count, and such a guidance.
        """
        recipe = self.recipe
        if recipe.true_guidance:
            if "guidance" not in recipe.shapes and (wish.guidance or 0) > 1:
                self._tell("this model takes no guidance: --guidance does not count")
            scale = 1.0 if wish.true_guidance is None else wish.true_guidance
            if wish.negative is not None and scale <= 1:
                self._tell("the negative prompt does not count without a scale of its own: give --true-guidance, say 4")
            return np.float32(scale) if scale > 1 and wish.negative is not None else None
        if wish.true_guidance is not None:
            raise ExportError("--true-guidance is for models that take guidance as an input", hint="use --guidance")
        scale = recipe.guidance if wish.guidance is None else wish.guidance
        if wish.negative is not None and scale <= 1:
            self._tell(f"the negative prompt does not count at guidance {scale:g}: give more than 1")
        return np.float32(scale) if scale > 1 else None

    def _tell(self, text: str) -> None:
        if self.say is not None:
            self.say(text)

    def _conditions(self, wish: Wish, *, guided: bool) -> Inputs:
        """The transformer's inputs that do not change: n rows, and where it is guided n rows of nothing before them."""
        recipe, count = self.recipe, wish.count
        made = self._of_prompts(wish, guided) if wish.prompts else self._of_labels(wish, guided)
        guidance = recipe.guidance if wish.guidance is None else wish.guidance
        return {**made, **recipe.other(2 * count if guided else count, guidance)}

    def _of_prompts(self, wish: Wish, guided: bool) -> Inputs:
        if self.recipe.roles and not self.recipe.record.text:
            hint = "build it again with --components all"
            raise ExportError(f"{self.bundle.path} holds no text encoder", hint=hint)
        kinds = list(dict.fromkeys(wish.prompts))  # each prompt once, however many pictures of it
        negatives = [wish.negative or ""] if guided else []
        texts, is_negative = [*negatives, *kinds], [True] * len(negatives) + [False] * len(kinds)
        found = encoded_prompts(
            self.bundle, self.recipe, texts, negative=is_negative, runtime=self.runtime, say=self.say
        )
        rows = np.array([len(negatives) + kinds.index(prompt) for prompt in wish.prompts])
        made = self._of_encoded({role: each.taken(rows) for role, each in found.items()}, negative=False)
        if not guided:
            return made
        none = {role: each.taken(np.zeros(wish.count, np.int64)) for role, each in found.items()}
        return _stacked(self._of_encoded(none, negative=True), made)

    def _of_encoded(self, encoded: Mapping[str, Encoded], *, negative: bool) -> Inputs:
        mask = self.recipe.prompt_mask(encoded)
        beside = {} if mask is None else {PROMPT_MASK: mask}
        return {**self.recipe.conditions(encoded, negative=negative), **beside}

    def _of_labels(self, wish: Wish, guided: bool) -> Inputs:
        if wish.negative is not None:
            raise ExportError(f"{self.recipe.record.class_name} takes classes, and no negative prompt")
        labels = np.array(wish.labels, np.int64)
        made = self.recipe.labels(labels, null=False)
        return _stacked(self.recipe.labels(labels, null=True), made) if guided else made

    def _inputs(self, conditions: Inputs, state: Array, time: float) -> Inputs:
        """In the order and the types of the graph."""
        rows = len(next(iter(conditions.values())))
        state = np.concatenate([state] * (rows // len(state)))
        times = np.full(rows, time, np.float32)
        given = {"hidden_states": state, "x": state, "timestep": times, "t": times, **conditions}
        specs = self.bundle.manifest.input_specs()
        absent = [spec.name for spec in specs if spec.name not in given]
        if absent:
            raise ExportError(f"{self.bundle.path} takes '{absent[0]}', which this pipeline does not make")
        return {spec.name: np.asarray(given[spec.name], spec.dtype) for spec in specs}

    def _later_noise(self, wish: Wish, step: int) -> Array:
        """What a sampler adds on the way: of each image its own, whatever n is."""
        images = range(wish.first, wish.first + wish.count)
        rows = [np.random.default_rng([wish.seed, i, step]).standard_normal(self.recipe.latent) for i in images]
        return np.stack(rows).astype(np.float32)


def schedule(recipe: Recipe, scheduler: Mapping[str, Any], steps: int | None) -> Walk:
    """The scheduler's walk in so many steps (None: the pipeline's own). ExportError for steps that it does not take."""
    count = recipe.steps if steps is None else steps
    return sampler_from_config(scheduler).start(count, **recipe.start(scheduler, count))


def _first(made: Mapping[str, Array], state: Array) -> Array:
    """The prediction: the output's first channels, as many as the state has; a learned variance lies behind them."""
    values = np.asarray(next(iter(made.values())), np.float32)
    wide = state.ndim == 4 and values.shape[1] == 2 * state.shape[1]
    values = values[:, : state.shape[1]] if wide else values
    if values.shape[1:] != state.shape[1:]:
        raise RunnerError(
            f"the model gives {list(values.shape)} for a state of {list(state.shape)}", hint="build the bundle again"
        )
    return values


def _guided(prediction: Array, count: int, scale: np.float32 | None) -> Array:
    if scale is None:
        return prediction
    null, conditional = prediction[:count], prediction[count:]
    return np.asarray(null + scale * (conditional - null))


def _stacked(null: Inputs, conditional: Inputs) -> Inputs:
    return {name: np.concatenate([null[name], conditional[name]]) for name in conditional}
