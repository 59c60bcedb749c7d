"""Text encoders of pipelines: from a folder of transformers, with its weights or with seeded random ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from dsr_export.checkpoints import StateDict, read_shards
from dsr_export.checkpoints.absent_weights import no_weights
from dsr_export.checkpoints.stored_types import check_stored_types
from dsr_export.declarations.lora_file import LoraFile
from dsr_export.declarations.weight_file import WeightFile
from dsr_export.errors import ExportError
from dsr_export.example_rows.drawn import Array, Draw
from dsr_export.families.config_bounds import check_memory
from dsr_export.families.digests import file_sha256
from dsr_export.families.network_parts.randomise import draw_weights, usual_moments
from dsr_export.families.text_encoders.folder import TextEncoderFolder, check_reads
from dsr_export.families.text_encoders.masks import AttentionBias
from dsr_export.families.text_encoders.network import TextEncoder
from dsr_export.families.text_encoders.reads import Reads
from dsr_export.families.transformers_package import (
    absent_names,
    first_line,
    quiet,
    refusals,
    transformers_package,
    weight_count,
)
from dsr_export.lora.merging import merged, plan
from dsr_export.spec import DsrSpec
from dsr_export.subject import Subject
from graphs.artifacts import TensorSpec
from graphs.digests import files_digest

FAMILY = "text-encoder"
FOUR_AXES = 5
"""The release of transformers from which on each class takes masks that are made already."""
_OLD_EOS = 2
"""What configs of CLIP once said of the last token, whose id is the highest instead; transformers reads it so, too."""


@dataclass(frozen=True)
class Loras:
    """Adapters, and which part of a pipeline their layers are to be of."""

    part: str
    files: Sequence[LoraFile] = ()


def text_encoder_subject(
    name: str, folder: TextEncoderFolder, reads: Reads, *, random_weights: int | None, loras: Loras | None = None
) -> Subject:
    """The encoder in `folder`, called `name`, with its own weights unless a seed for others is given.

    Raises ExportError where the folder holds none, they or `loras` do not fit, or `reads` asks for what the model has
    not.
    """
    check_reads(folder, reads)
    model = _configured(folder, _state(folder) if random_weights is None else random_weights)
    planned = [] if loras is None else plan(model, loras.files, folder.class_name, loras.part)
    records = merged(model, planned)
    module = TextEncoder(model, reads, _bias(folder, model.config, reads)).eval().requires_grad_(False)
    names = ("ids", "mask") if reads.masked else ("ids",)
    return Subject(
        name=name,
        family=FAMILY,
        module=module,
        inputs=tuple(TensorSpec(name=each, dtype="int64", shape=("batch", reads.tokens)) for each in names),
        outputs=_outputs(module),
        dsr=DsrSpec(),
        config={"_class_name": folder.class_name, **_told(reads), **_sizes(model.config)},
        provenance={**_provenance(folder, random_weights), **({"loras": records} if records else {})},
        outer_modules=tuple(f"model.{name}" for name, part in model.named_modules() if isinstance(part, nn.Embedding)),
        draws={"ids": _ids_of(model.config), "mask": _prefix},
        special_rows=True,
    )


def check_loras(folder: TextEncoderFolder, loras: Loras) -> None:
    """Raises ExportError for adapters that do not fit the encoder; its weights are not looked at."""
    with _refused(folder):
        loader, config = _described(folder)
        with torch.device("meta"):
            model = loader(config)
    plan(model, loras.files, folder.class_name, loras.part)


def _bias(folder: TextEncoderFolder, config: Any, reads: Reads) -> AttentionBias | None:
    release = transformers_package("text encoders").__version__
    if int(release.partition(".")[0]) < FOUR_AXES:
        return None
    return AttentionBias(folder.class_name, reads.tokens, getattr(config, "sliding_window", None))


def _state(folder: TextEncoderFolder) -> StateDict:
    if not folder.weights:
        hint = "save the pipeline again, or give --random-weights SEED to try out the architecture"
        raise no_weights(folder.path, f"{folder.path} holds no weights", hint=hint)
    check_stored_types(folder.path, folder.config)
    return read_shards([WeightFile(path) for path in folder.weights]).state


def _configured(folder: TextEncoderFolder, weights: StateDict | int) -> Any:
    """The model with the tensors of `weights`, under the names of whatever release of transformers, or drawn."""
    with _refused(folder), torch.random.fork_rng(devices=[]):
        loader, config = _described(folder)
        config._attn_implementation = "sdpa" if getattr(loader, "_supports_sdpa", True) else "eager"
        check_memory(weight_count(loader, config), str(folder.path))
        if isinstance(weights, int):
            model = loader(config).float().eval()
            draw_weights(model, weights, usual_moments)
            return model
        model, info = loader.from_pretrained(None, config=config, state_dict=weights, output_loading_info=True)
    _check_loaded(folder, info)
    return model.float().eval()


def _described(folder: TextEncoderFolder) -> tuple[Any, Any]:
    """The class, and its configuration. ExportError where transformers has none of that name."""
    loader = getattr(transformers_package("text encoders"), folder.class_name, None)
    if loader is None:
        raise ExportError(f"the transformers installed here has no {folder.class_name}", hint="pip install -U it")
    return loader, loader.config_class.from_pretrained(folder.path, local_files_only=True)


@contextmanager
def _refused(folder: TextEncoderFolder) -> Iterator[None]:
    """What transformers does within it is quiet, and what it raises an ExportError."""
    try:
        with quiet(transformers_package("text encoders")):
            yield
    except refusals() as error:
        message = f"{folder.path} can't be loaded as {folder.class_name}: {first_line(error)}"
        raise ExportError(message, hint="download the folder again") from error


def _check_loaded(folder: TextEncoderFolder, info: Mapping[str, Any]) -> None:
    """Every weight comes from the files, and every tensor there is one."""
    absent, unknown = absent_names(dict(info)), sorted(info["unexpected_keys"])
    if absent or unknown:
        problem = f"lacks {len(absent)} weights, such as {absent[0]}" if absent else f"holds an unknown '{unknown[0]}'"
        raise ExportError(f"{folder.path} {problem}", hint=f"is it the whole folder of a {folder.class_name}?")


def _outputs(module: TextEncoder) -> tuple[TensorSpec, ...]:
    """Told by one short run."""
    with torch.no_grad():
        ids = torch.zeros(1, module.reads.tokens, dtype=torch.int64)
        made = module(ids, torch.ones_like(ids)) if module.reads.masked else module(ids)
    values = made if isinstance(made, tuple) else (made,)
    shapes = {name: tuple(value.shape[1:]) for name, value in zip(module.outputs, values, strict=True)}
    return tuple(TensorSpec(name=name, dtype="float32", shape=("batch", *shape)) for name, shape in shapes.items())


def _told(reads: Reads) -> dict[str, Any]:
    """What stands for the graph's input and its first output."""
    state = {} if reads.hidden is None else {"hidden_state": reads.hidden}
    return {"text_tokens": reads.tokens, **state}


def _sizes(config: Any) -> dict[str, Any]:
    names = ("hidden_size", "num_hidden_layers", "vocab_size", "eos_token_id")
    found = {name: getattr(config, name, None) for name in names}
    return {name: value for name, value in found.items() if type(value) is int}


def _provenance(folder: TextEncoderFolder, seed: int | None) -> dict[str, Any]:
    weights = {"random_seed": seed} if seed is not None else {"checkpoint_sha256": files_digest(list(folder.weights))}
    return {"config_sha256": file_sha256(folder.config_file), **weights}


def _ids_of(config: Any) -> Draw:
    """Prompts of random lengths: tokens, the end, padding."""
    most, end, padding = int(config.vocab_size), config.eos_token_id, config.pad_token_id
    end = most - 1 if end == _OLD_EOS or type(end) is not int else end

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        ids = rng.integers(0, most, shape)
        last = rng.integers(0, shape[0])
        ids[last] = end
        ids[last + 1 :] = padding if type(padding) is int and 0 <= padding < most else end
        return ids

    return draw


def _prefix(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """A prompt of random length: ones, then zeros for the padding."""
    return np.arange(shape[0]) < rng.integers(1, shape[0] + 1)
