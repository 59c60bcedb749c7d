"""What a text encoder of transformers returns, of the outputs that a bundle holds of it.

Shapes: n prompts, L tokens, D channels.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dsr_export.diffusers.absent import Absent

_OUTPUTS = "transformers.modeling_outputs"
_CLIP = "transformers.models.clip.modeling_clip"
CLASSES: Mapping[str, tuple[str, str]] = {
    "CLIPTextModel": (_OUTPUTS, "BaseModelOutputWithPooling"),
    "CLIPTextModelWithProjection": (_CLIP, "CLIPTextModelOutput"),
    "T5EncoderModel": (_OUTPUTS, "BaseModelOutputWithPastAndCrossAttentions"),
    "Gemma2Model": (_OUTPUTS, "BaseModelOutputWithPast"),
}
"""Encoder -> what it returns."""
POOLED = {"CLIPTextModel": "pooler_output", "CLIPTextModelWithProjection": "text_embeds"}
"""Encoder -> under which name it returns the pooled vector."""
TIED = ("T5EncoderModel", "Gemma2Model")
"""Those whose last hidden state is the one behind the final norm."""
_READS = "a bundle holds what its pipeline reads of a text encoder; attach(..., components=...) leaves this one out"


def text_output(class_name: str, made: Mapping[str, Tensor], state: str | None, layers: int | None) -> Any:
    """The output object; `layers` is how many there are, where all hidden states are asked for.

    `made` are the graph's `embeds` [n, L, D] and `pooled` [n, D], as far as it has them, and `state` is which hidden
    state the first is. What is not among them is `Absent`.
    """
    module, name = CLASSES[class_name]
    last = made["embeds"] if state == "last" else Absent.of(f"last hidden state of its {class_name}", _READS)
    fields: dict[str, Any] = {"last_hidden_state": last}
    if class_name in POOLED:
        fields[POOLED[class_name]] = made.get("pooled", Absent.of(f"pooled vector of its {class_name}", _READS))
    if layers is not None:
        fields["hidden_states"] = _states(class_name, made, state, layers)
    return getattr(importlib.import_module(module), name)(**fields)


def _states(class_name: str, made: Mapping[str, Tensor], state: str | None, layers: int) -> tuple[Tensor, ...]:
    """One in front of each layer, and one behind the last."""
    there = {"penultimate": layers - 1} | ({"last": layers} if class_name in TIED else {})
    return tuple(
        made["embeds"] if there.get(str(state)) == i else Absent.of(f"hidden state {i} of its {class_name}", _READS)
        for i in range(layers + 1)
    )
