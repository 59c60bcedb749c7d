"""Vision models of `transformers`: from a local folder, or freshly configured. The one place that imports it for them.

Never uses the network: files are local, and `HF_HUB_OFFLINE` is set before the import.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn

from dsr_export.errors import ExportError
from dsr_export.families.config_bounds import check_config, check_memory, check_stored
from dsr_export.families.encoders.vision_encoder import VisionEncoder
from dsr_export.families.encoders.vision_families import FAMILIES, Value, check_folder, processed_size


def encoder_from_folder(family: str, folder: Path, *, image_size: int | None) -> VisionEncoder:
    """The encoder in a Hugging Face folder: `config.json` and safetensors; a full SigLIP model or its vision tower.

    `image_size` in pixels; None takes what the folder's image processor makes, else the configuration's. Position
    embeddings are resampled to it once, as the model itself would at run time.
    Raises ExportError for a folder that lacks a file, is of another family, is damaged, or misses weights.
    """
    check_folder(family, folder)
    model = _pretrained(family, folder)
    return _encoder(model, image_size or processed_size(folder) or model.config.image_size)


def random_encoder(family: str, options: Mapping[str, Value]) -> VisionEncoder:
    """The architecture with `options` over the base model's sizes; weights are left to the caller to draw.

    Raises ExportError where transformers refuses the sizes.
    """
    known = FAMILIES[family]
    transformers = _transformers()
    check_config({**known.base, **options}, family)
    _check_heads({**known.base, **options})
    try:
        config = getattr(transformers, known.config_class)(**{**known.base, **options})
        config._attn_implementation = "sdpa"
        check_memory(_weights(getattr(transformers, known.model_class), config), family)
        with torch.random.fork_rng(devices=[]):  # its initialisation draws from the global generator
            model = getattr(transformers, known.model_class)(config).float().eval()
    except _refusals() as error:
        raise ExportError(f"{family} can't be built with these sizes: {error}", hint="compare a config.json") from error
    return _encoder(model, int(config.image_size))


def _check_heads(sizes: Mapping[str, Value]) -> None:
    hidden, heads = int(sizes["hidden_size"]), int(sizes["num_attention_heads"])
    if hidden % heads:
        raise ExportError(f"hidden_size {hidden} is not divisible by num_attention_heads {heads}")


def _encoder(model: Any, image_size: int) -> VisionEncoder:
    """Takes the parts of a model that make patch tokens; heads and the final norm's affine stay behind."""
    tower = getattr(model, "vision_model", model)  # transformers 4 wraps SigLIP's tower once more
    embeddings, config = tower.embeddings, model.config
    projection = _projection(embeddings)
    patch = projection.kernel_size[0]
    check_config({"image_size": image_size, "patch_size": patch, "hidden_size": projection.out_channels}, "the encoder")
    if image_size < patch or image_size % patch:
        raise ExportError(f"image size {image_size} is not a multiple of the patch size {patch}")
    prefix, position = _positions(embeddings, image_size, patch)
    return VisionEncoder(
        projection=projection,
        position=position,
        prefix=prefix,
        layers=tower.encoder.layers if hasattr(tower.encoder, "layers") else tower.encoder.layer,
        norm_eps=float(config.layer_norm_eps),
    )


def _weights(model_class: Any, config: Any) -> int:
    """How many there will be, without memory for them."""
    with torch.device("meta"):
        made = model_class(config)
    return sum(weight.numel() for weight in made.parameters())


def _projection(embeddings: nn.Module) -> nn.Conv2d:
    single = getattr(embeddings, "patch_embedding", None)
    found: Any = single if single is not None else embeddings.patch_embeddings.projection  # type: ignore[union-attr]
    assert isinstance(found, nn.Conv2d)
    return found


@torch.no_grad()
def _positions(embeddings: Any, image_size: int, patch: int) -> tuple[Tensor, Tensor]:
    """Prefix rows [1, P, C] and patch positions [1, N, C] at `image_size`."""
    class_token = getattr(embeddings, "cls_token", None)
    count = (image_size // patch) ** 2 + (class_token is not None)
    channels = _projection(embeddings).out_channels
    position = embeddings.interpolate_pos_encoding(torch.zeros(1, count, channels), image_size, image_size)
    if class_token is None:
        return torch.zeros(1, 0, channels), position
    registers = getattr(embeddings, "register_tokens", torch.zeros(1, 0, channels))
    return torch.cat([class_token + position[:, :1], registers], dim=1), position[:, 1:]


def _pretrained(family: str, folder: Path) -> Any:
    loader = getattr(_transformers(), FAMILIES[family].model_class)
    try:
        with _quiet():
            config = loader.config_class.from_pretrained(folder, local_files_only=True)
            stored = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
            check_stored(_weights(loader, config), stored, f"{folder / 'config.json'}")
            model, info = loader.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                attn_implementation="sdpa",
                output_loading_info=True,
            )
    except _refusals() as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ExportError(
            f"{folder} can't be loaded as {family}: {reason}", hint="download the folder again"
        ) from error
    _check_weights(folder, model, [*info["missing_keys"], *info.get("mismatched_keys", ())])
    return model.float().eval()


def _check_weights(folder: Path, model: nn.Module, absent: list[Any]) -> None:
    """Whatever patch tokens depend on must come from the file, and be finite."""
    names = sorted(str(name[0] if isinstance(name, tuple) else name) for name in absent)
    missing = [name for name in names if ("encoder." in name or "embeddings." in name) and "mask_token" not in name]
    if missing:
        raise ExportError(
            f"{folder} lacks {len(missing)} weights, such as {missing[0]}", hint="is it the whole model's folder?"
        )
    broken = [name for name, weight in model.named_parameters() if not weight.isfinite().all()]
    if broken:
        raise ExportError(f"{folder}: {len(broken)} weights hold NaN or Inf, such as {broken[0]}")


def _transformers() -> Any:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read by huggingface_hub when it is imported
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise ExportError(
            f"encoders need the package transformers: {error}", hint="pip install 'dsr-export[models]'"
        ) from error


def _refusals() -> tuple[type[Exception], ...]:
    """What transformers raises on sizes, configurations and files that are inconsistent, incomplete or damaged."""
    known = (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, ZeroDivisionError)
    errors = importlib.import_module("huggingface_hub.errors")
    strict = getattr(errors, "StrictDataclassError", ValueError)  # newer releases check configurations with it
    return (*known, safetensors.SafetensorError, strict)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without its progress bar and its report of unused weights: stderr belongs to our progress."""
    logging = _transformers().utils.logging
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
