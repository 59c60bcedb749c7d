"""From prompts to what the bundle's text encoders make of them, one encoder at a time.

Shapes: n prompts, L tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.backends.opening import Say
from dsr_export.backends.runtime_names import Runtime
from dsr_export.bundle.pipeline_record import tokenizer_folder
from dsr_export.images.finite import finite
from dsr_export.parity.batch_calls import in_batches
from dsr_export.pipelines.models import PipelineModel
from dsr_export.pipelines.recipe import Encoded, Recipe
from dsr_export.prompts import PromptTokenizer, Tokens, check_ids

Array = npt.NDArray[Any]


def encoded_prompts(
    bundle: PipelineModel,
    recipe: Recipe,
    prompts: Sequence[str],
    *,
    negative: Sequence[bool],
    runtime: Runtime,
    say: Say | None,
) -> dict[str, Encoded]:
    """Role -> what it makes of `prompts`, row by row; `negative` says which of them are such.

    Raises ExportError where a prompt can't be tokenised, or an encoder can't run here.
    """
    made: dict[str, Encoded] = {}
    for role, record in recipe.record.text.items():
        tokenizer = PromptTokenizer.from_folder(bundle.path / tokenizer_folder(record.tokenizer))
        pairs = list(zip(prompts, negative, strict=True))
        texts = [recipe.text(prompt, role, negative=kind) for prompt, kind in pairs]
        lengths = [recipe.length(role, negative=kind) for _, kind in pairs]
        found = [
            tokenizer([text], length=length, padding_side=recipe.padding_side)
            for text, length in zip(texts, lengths, strict=True)
        ]
        tokens = _together(found, record.tokens)
        encoder = bundle.component(role)
        _check_and_tell(tokens, encoder, role, say)
        made[role] = _encoded(role, encoder, tokens, runtime, say)
    return made


def _together(found: Sequence[Tokens], total: int) -> Tokens:
    """The prompts as rows, padded on to `total` tokens."""
    ids, mask = (np.zeros((len(found), total), np.int64) for _ in range(2))
    for row, tokens in enumerate(found):
        length = tokens.ids.shape[1]
        ids[row, :length], mask[row, :length] = tokens.ids[0], tokens.mask[0]
    return Tokens(ids, mask, tuple(text for tokens in found for text in tokens.dropped))


def _check_and_tell(tokens: Tokens, encoder: PipelineModel, role: str, say: Say | None) -> None:
    """Ids are the encoder's own; what does not fit in its length is said."""
    rows = encoder.manifest.model["config"].get("vocab_size")
    if type(rows) is int:
        check_ids(tokens, rows, role)
    for text in dict.fromkeys(tokens.dropped):
        if text and say is not None:
            kept = tokens.ids.shape[1]
            say(f"{role} takes {kept} tokens, and does not read the end of a prompt: {text.strip()[:80]!r}")


def _encoded(role: str, encoder: PipelineModel, tokens: Tokens, runtime: Runtime, say: Say | None) -> Encoded:
    given: Mapping[str, Array] = {"ids": tokens.ids, "mask": tokens.mask}
    inputs = {spec.name: given[spec.name] for spec in encoder.manifest.input_specs()}
    with encoder.runner(runtime, say=say) as runner:
        found = in_batches(runner.infer, inputs, encoder.manifest.batch_range())
    values = {name: np.asarray(value, np.float32) for name, value in found.items()}
    for name, value in values.items():
        finite(value, f"its output '{name}'", role)
    return Encoded(mask=tokens.mask, embeds=values.get("embeds"), pooled=values.get("pooled"))
