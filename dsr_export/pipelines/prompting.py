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
from dsr_export.bundle.reader import Bundle
from dsr_export.parity.batch_calls import in_batches
from dsr_export.pipelines.recipe import Encoded, Recipe
from dsr_export.prompts import PromptTokenizer

Array = npt.NDArray[Any]


def encoded_prompts(
    bundle: Bundle,
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
        ids, mask = _tokens(tokenizer, texts, lengths, record.tokens)
        made[role] = _encoded(bundle.component(role), ids, mask, runtime, say)
    return made


def _tokens(
    tokenizer: PromptTokenizer, texts: Sequence[str], lengths: Sequence[int], total: int
) -> tuple[Array, Array]:
    """Ids and mask [n, total] int64: each text cut and padded to its length, then padded on."""
    ids, mask = (np.zeros((len(texts), total), np.int64) for _ in range(2))
    for row, (text, length) in enumerate(zip(texts, lengths, strict=True)):
        tokens = tokenizer([text], length=length)
        ids[row, :length], mask[row, :length] = tokens.ids[0], tokens.mask[0]
    return ids, mask


def _encoded(encoder: Bundle, ids: Array, mask: Array, runtime: Runtime, say: Say | None) -> Encoded:
    given: Mapping[str, Array] = {"ids": ids, "mask": mask}
    inputs = {spec.name: given[spec.name] for spec in encoder.manifest.input_specs()}
    with encoder.runner(runtime, say=say) as runner:
        found = in_batches(runner.infer, inputs, encoder.manifest.batch_range())
    values = {name: np.asarray(value, np.float32) for name, value in found.items()}
    return Encoded(mask=mask, embeds=values.get("embeds"), pooled=values.get("pooled"))
