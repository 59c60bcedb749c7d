"""`Recipe`: what one class of pipelines does between its models, in numpy.

Shapes: n images, L tokens, D channels of text; latents [n, C, h, w].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from dsr_export.bundle.pipeline_record import PipelineRecord
from dsr_export.errors import ExportError
from dsr_export.pipelines.parts import PipelineSizes, TextPart, VaePart
from dsr_export.prompts.settings import Side
from dsr_export.samplers.sigma_schedules import dynamic_mu
from graphs.artifacts import TensorSpec

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """What one text encoder made of some prompts: those of `embeds` [n, L, D] and `pooled` [n, D] that it gives.

    `mask` [n, L] is 1 for tokens, 0 for padding.
    """

    mask: Array
    embeds: Array | None = None
    pooled: Array | None = None

    def taken(self, rows: Array) -> Encoded:
        """These rows of it."""
        embeds, pooled = (None if part is None else part[rows] for part in (self.embeds, self.pooled))
        return Encoded(mask=self.mask[rows], embeds=embeds, pooled=pooled)

    @property
    def hidden(self) -> Array:
        """The states. ExportError where the encoder gives none."""
        return _there(self.embeds, "hidden states")

    @property
    def vector(self) -> Array:
        """The pooled vector. ExportError where the encoder gives none."""
        return _there(self.pooled, "a pooled vector")


class Recipe(ABC):
    """Facts of one class; an instance knows the transformer's inputs, and the bundle's record of the pipeline.

    `steps` and `guidance` are diffusers' defaults. `true_guidance`: guidance by a negative prompt has a scale of its
    own, as the model takes `guidance` as an input. `padding_side` stands above what tokenizers say. `scaled`: latents
    are scaled by the scheduler before the model sees them; `started`: and at the start.
    """

    names: ClassVar[tuple[str, ...]]
    roles: ClassVar[tuple[str, ...]] = ()
    steps: ClassVar[int]
    guidance: ClassVar[float]
    true_guidance: ClassVar[bool] = False
    padding_side: ClassVar[Side | None] = None
    scaled: ClassVar[bool] = False
    started: ClassVar[bool] = False

    def __init__(
        self, record: PipelineRecord, inputs: Sequence[TensorSpec], config: Mapping[str, Any], num_classes: int
    ) -> None:
        """`inputs`, `config` and `num_classes` are the transformer's."""
        self.record, self.config, self.num_classes = record, config, num_classes
        self.shapes = {spec.name: spec.with_batch(1)[1:] for spec in inputs}

    # -- what is built ------------------------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def text_parts(cls, sizes: PipelineSizes) -> tuple[TextPart, ...]:
        """The text encoders, at the lengths that the transformer's prompt is made of."""

    @classmethod
    @abstractmethod
    def vae_part(cls, sizes: PipelineSizes) -> VaePart:
        """The decoder of the latents that the transformer makes."""

    @classmethod
    def options(cls, sizes: PipelineSizes) -> dict[str, int]:
        """Sizes that the transformer is built for where its own default is not what prompts make."""
        return {}

    @classmethod
    def settings(cls, sizes: PipelineSizes) -> dict[str, Any]:
        """What else the class has to know when it draws: JSON values."""
        return {}

    def check(self, parts: Mapping[str, TextPart | VaePart]) -> None:
        """Raises ExportError where the transformer takes other prompts or latents than the parts were planned for."""
        latents = [(each.channels, each.height, each.width) for each in parts.values() if isinstance(each, VaePart)]
        if latents and latents[0] != self.latent:
            raise _misfit("latents", self.latent, "the autoencoder", latents[0])
        if not self.record.text:
            return
        made, taken = self.prompt_tokens, self.shapes.get("encoder_hidden_states", (0,))[0]
        if made != taken:
            raise _misfit("prompts", (taken,), "the text encoders", (made,))

    @property
    def prompt_tokens(self) -> int:
        """How many tokens a prompt is, as the transformer takes it."""
        return max((each.tokens for each in self.record.text.values()), default=0)

    @property
    def guides(self) -> bool:
        """Whether the pipeline by itself asks the model twice for each picture, with its prompt and without."""
        return not self.true_guidance and self.guidance > 1

    # -- how it is drawn ----------------------------------------------------------------------------------------

    def text(self, prompt: str, role: str, *, negative: bool) -> str:
        """What is given to the tokenizer of `role`."""
        return prompt

    def length(self, role: str, *, negative: bool) -> int:
        """How many tokens a prompt is cut to; what is left of the encoder's own length is padding."""
        return self.record.text[role].tokens

    def conditions(self, encoded: Mapping[str, Encoded], *, negative: bool) -> dict[str, Array]:
        """The transformer's inputs that prompts make, by the graph's names."""
        raise ExportError(f"{self.record.class_name} takes classes, not prompts", hint="give --class, not --prompt")

    def prompt_mask(self, encoded: Mapping[str, Encoded]) -> Array | None:
        """[n, T]: 1 for the prompt's own tokens among those that go through the transformer, 0 for padding.

        None where the transformer keeps none of them.
        """
        return None

    def labels(self, labels: Array, *, null: bool) -> dict[str, Array]:
        """The transformer's inputs that classes make: of these classes [n], or of none."""
        raise ExportError(f"{self.record.class_name} takes prompts, not classes", hint="give --prompt TEXT")

    def other(self, count: int, guidance: float) -> dict[str, Array]:
        """Further inputs of the transformer, for `count` rows."""
        return {}

    @property
    def latent(self) -> tuple[int, ...]:
        """The shape [C, h, w] of one image's latent."""
        return self.shapes["hidden_states"]

    def packed(self, latents: Array) -> Array:
        """Latents as the transformer and the scheduler take them."""
        return latents

    def unpacked(self, latents: Array) -> Array:
        """The way back."""
        return latents

    def time(self, step: float) -> float:
        """What the transformer is told of a step of the schedule."""
        return step

    def start(self, scheduler: Mapping[str, Any], steps: int) -> dict[str, Any]:
        """What the pipeline tells its scheduler beside the number of steps: `sigmas`, `mu`."""
        return {}

    def decoded(self, latents: Array) -> Array:
        """The scheduler's latents [n, C, h, w] as the autoencoder's decoder takes them."""
        vae = self.record.vae
        assert vae is not None  # asked for where there is a decoder
        return np.asarray(latents / np.float32(vae.scaling_factor) + np.float32(vae.shift_factor), np.float32)

    @property
    def pixels(self) -> tuple[int, int]:
        """Height and width of the picture."""
        scale = 1 if self.record.vae is None else self.record.vae.scale
        return self.latent[1] * scale, self.latent[2] * scale


def dynamic_shift(scheduler: Mapping[str, Any], tokens: int, *, most: float) -> float:
    """`mu` of a latent of so many tokens: a line through the scheduler's two shifts (SD3, FLUX.1).

    `most` stands for `max_shift` where the scheduler does not say it. ExportError for a line that is none.
    """
    base = scheduler.get("base_image_seq_len", 256), scheduler.get("base_shift", 0.5)
    end = scheduler.get("max_image_seq_len", 4096), scheduler.get("max_shift", most)
    return dynamic_mu(tokens, base=base, most=end)


def lowered(prompt: str) -> str:
    """As PixArt and Sana take prompts."""
    return prompt.lower().strip()


def text_width(sizes: PipelineSizes, parts: Sequence[TextPart], wanted: int, field: str) -> None:
    """Raises ExportError where encoders make states of another width than the transformer takes."""
    for part in parts:
        config = sizes.folder.config(part.role)
        width = config.get("hidden_size") or config.get("d_model")
        if type(width) is int and width != wanted:
            raise ExportError(
                f"{sizes.folder.part(part.role)} makes states of {width} channels, and the transformer's {field} is "
                f"{wanted}",
                hint="is one of them another pipeline's?",
            )


def _misfit(what: str, wanted: Sequence[int], whose: str, made: Sequence[int]) -> ExportError:
    return ExportError(
        f"the transformer takes {what} of {list(wanted)}, and {whose} would be built for {list(made)}",
        hint="say the sizes: --option latent_height=, latent_width=, text_tokens=",
    )


def _there(values: Array | None, what: str) -> Array:
    if values is None:
        raise ExportError(f"a text encoder of the bundle gives no {what}", hint="build the bundle again")
    return values
