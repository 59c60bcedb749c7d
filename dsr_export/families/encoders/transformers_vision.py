"""Vision models of `transformers`: from a local folder, or freshly configured."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dsr_export.errors import ExportError
from dsr_export.families.config_bounds import check_config, check_memory, check_stored
from dsr_export.families.encoders.assembled import assembled
from dsr_export.families.encoders.model_inputs import ModelInputs
from dsr_export.families.encoders.observed import Run
from dsr_export.families.encoders.resolution import inputs_for
from dsr_export.families.encoders.vision_encoder import VisionEncoder
from dsr_export.families.encoders.vision_families import FAMILIES, Value, check_folder, processed_size
from dsr_export.families.transformers_package import (
    absent_names,
    first_line,
    quiet,
    refusals,
    transformers_package,
    weight_count,
)

_OWN = "load it yourself, and give it as module:callable"
_TOWERS = ("vision_model", "vision_tower", "visual", "vision_encoder")
"""What models of several modalities call their image encoder."""


def encoder_from_folder(family: str, folder: Path, options: Mapping[str, Value]) -> VisionEncoder:
    """The encoder in a Hugging Face folder: `config.json` and safetensors; a whole model of two towers or its vision.

    `options` say the size (`resolution`), which layers make the output (`Combination`) and through which norm
    (`final_norm`). Without a size, it is what the folder's image processor makes, else the configuration's. Position
    embeddings are resampled to it once, as the model itself would at run time.
    Raises ExportError for a folder that lacks a file, is of another family, is damaged, or misses weights.
    """
    check_folder(family, folder)
    model, absent = _pretrained(family, folder)
    reads = getattr(model, "main_input_name", "pixel_values")
    if reads != "pixel_values":
        kind = type(model).__name__
        raise ExportError(f"{kind} reads {reads}, not images", hint="give the folder of an image encoder")
    _check_finite(folder, model)
    inputs = inputs_for(model.config, options, processed=processed_size(folder))
    encoder, run = observed_encoder(model, inputs, options)
    _check_weights(folder, model, absent, run)
    return encoder


def random_encoder(family: str, options: Mapping[str, Value], *, image_size: int | None = None) -> VisionEncoder:
    """The architecture with `options` over the base model's sizes; weights are left to the caller to draw.

    `image_size` is what it reads, where that is not the size in `options`. Raises ExportError where transformers
    refuses the sizes.
    """
    model = _configured(family, options, None)
    free = {name: value for name, value in options.items() if name not in FAMILIES[family].base}
    return observed_encoder(model, inputs_for(model.config, free, processed=image_size), options)[0]


def encoder_from_state(
    family: str, sizes: Mapping[str, Value], state: Mapping[str, Tensor], *, image_size: int
) -> VisionEncoder:
    """The encoder of `sizes` with the tensors of `state`, under the names of whatever release of transformers.

    Raises ExportError where one that its tokens depend on is missing, has another shape, or is unknown.
    """
    absent: list[str] = []
    model = _configured(family, sizes, dict(state), absent)
    encoder, run = observed_encoder(model, inputs_for(model.config, {}, processed=image_size), {})
    _check_weights("the encoder", model, absent, run)
    return encoder


def _configured(
    family: str, options: Mapping[str, Value], state: dict[str, Tensor] | None, absent: list[str] | None = None
) -> Any:
    """The model of these sizes, its weights from `state` where it is given; names it lacks are added to `absent`."""
    known = FAMILIES[family]
    transformers = _transformers()
    sizes = {**known.base, **{name: value for name, value in options.items() if name in known.base}}
    check_config(sizes, family)
    _check_heads(sizes)
    try:
        config = getattr(transformers, known.config_class)(**sizes)
        config._attn_implementation = "sdpa"
        loader = getattr(transformers, known.model_class)
        check_memory(weight_count(loader, config), family)
        with torch.random.fork_rng(devices=[]):  # its initialisation draws from the global generator
            if state is None:
                return loader(config).float().eval()
            with quiet(_transformers()):
                model, info = loader.from_pretrained(None, config=config, state_dict=state, output_loading_info=True)
    except refusals() as error:
        raise ExportError(f"{family} can't be built with these sizes: {error}", hint="compare a config.json") from error
    assert absent is not None
    _refuse_unknown(info["unexpected_keys"])
    absent += absent_names(info)
    return model.float().eval()


def _refuse_unknown(names: Collection[str]) -> None:
    if names:
        raise ExportError(f"the encoder has no weight '{min(names)}', which the file holds", hint="is it another one?")


def observed_encoder(model: Any, inputs: ModelInputs, options: Mapping[str, Any]) -> tuple[VisionEncoder, Run]:
    """`assembled`, and ExportError where the model itself can't be run on `inputs`."""
    if hasattr(model.config, "mask_ratio"):
        model.config.mask_ratio = 0.0  # a masked autoencoder: as an encoder it sees every patch
    try:
        with torch.random.fork_rng(devices=[]):
            return assembled(model, inputs, options)
    except refusals() as error:
        kind = type(model).__name__
        raise ExportError(f"{kind} can't be run on inputs {list(inputs.shape)}: {first_line(error)}") from error


def _check_heads(sizes: Mapping[str, Value]) -> None:
    hidden, heads = int(sizes["hidden_size"]), int(sizes["num_attention_heads"])
    if hidden % heads:
        raise ExportError(f"hidden_size {hidden} is not divisible by num_attention_heads {heads}")


def _pretrained(family: str, folder: Path) -> tuple[Any, list[Any]]:
    """The tower of vision, float32, and the names of weights that the folder lacks."""
    try:
        with quiet(_transformers()):
            loader, config = _loader(family, folder)
            check_config(config.to_dict(), str(folder / "config.json"))
            stored = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
            check_stored(weight_count(loader, config), stored, f"{folder / 'config.json'}")
            model, info = loader.from_pretrained(
                folder,
                config=config,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
    except refusals() as error:
        hint = "download the folder again"
        raise ExportError(f"{folder} can't be loaded as {family}: {first_line(error)}", hint=hint) from error
    prefix, tower = _tower(model)
    names = absent_names(info)
    return tower.float().eval(), [name.removeprefix(prefix) for name in names if name.startswith(prefix)]


def _loader(family: str, folder: Path) -> tuple[Any, Any]:
    """The class to load, and the configuration it takes from the folder. A family without a class is any model."""
    transformers, known = _transformers(), FAMILIES[family]
    if not known.any_type:
        loader = getattr(transformers, known.model_class)
        return loader, _with_attention(loader, loader.config_class.from_pretrained(folder, local_files_only=True))
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    plain = type(config).__name__.removesuffix("Config") + "Model"  # of towers that are no models of their own there
    loader = transformers.MODEL_MAPPING.get(type(config), None) or getattr(transformers, plain, None)
    if loader is None:
        raise ExportError(f"transformers has no plain model of type '{config.model_type}'", hint=_OWN)
    return loader, _with_attention(loader, config)


def _with_attention(loader: Any, config: Any) -> Any:
    """One fused attention where the class has it: it is one kernel of an engine."""
    config._attn_implementation = "sdpa" if getattr(loader, "_supports_sdpa", True) else "eager"
    return config


def _tower(model: Any) -> tuple[str, Any]:
    """The image encoder within a model of several modalities, and what its weights' names begin with."""
    children = dict(model.named_children())
    for name in _TOWERS:
        if hasattr(children.get(name), "config"):
            return f"{name}.", children[name]
    return "", model


def _check_weights(folder: Path | str, model: nn.Module, absent: list[str], run: Run) -> None:
    """Whatever patch tokens depend on must come from the file."""
    used = {id(weight) for part in run.ran for weight in part.parameters(recurse=False)}
    needed = {name for name, weight in model.named_parameters() if id(weight) in used and "mask_token" not in name}
    missing = sorted(needed & set(absent))
    if missing:
        raise ExportError(
            f"{folder} lacks {len(missing)} weights, such as {missing[0]}", hint="is it the whole model's folder?"
        )


def _check_finite(folder: Path, model: nn.Module) -> None:
    broken = [name for name, weight in model.named_parameters() if not weight.isfinite().all()]
    if broken:
        raise ExportError(f"{folder}: {len(broken)} weights hold NaN or Inf, such as {broken[0]}")


def _transformers() -> Any:
    return transformers_package("encoders")
