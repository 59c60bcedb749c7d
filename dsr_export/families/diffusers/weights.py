"""Builds a diffusers transformer from its config with the weights of files, or with seeded random ones.

The one place that imports diffusers. Nothing of its loading code is used: that would look at the network.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dsr_export.checkpoints import StateDict, load_into, names_of, read_shards
from dsr_export.declarations.lora_file import LoraFile
from dsr_export.declarations.weight_file import WeightFile
from dsr_export.errors import ExportError, did_you_mean
from dsr_export.families.config_bounds import check_config, check_memory
from dsr_export.families.diffusers.files import LEGACY
from dsr_export.families.diffusers.general.building import built, given_memory
from dsr_export.families.diffusers.positions import sincos_table
from dsr_export.families.diffusers.supported import SUPPORTED
from dsr_export.lora.merging import merged, plan


def build_transformer(
    class_name: str, config: Mapping[str, Any], weights: Sequence[WeightFile] | int, loras: Sequence[LoraFile] = ()
) -> tuple[nn.Module, dict[str, Any]]:
    """The transformer, float32 on the CPU, with the tensors of the files `weights`, or drawn from that seed.

    `loras` are merged into them. Beside it, for the manifest, where the tensors came from (`weights`, as in
    `Checkpoint.origin`; not for a seed) and what was merged (`loras`).
    Raises ExportError where the package is missing, and for arguments, tensors or adapters that do not fit.
    """
    own = class_name in {each.class_name for each in SUPPORTED}
    made = _empty(class_name, config, tables=not own)
    planned = plan(made, loras, class_name)
    origin = _filled_own(made, class_name, weights) if own else _filled(made, class_name, weights)
    records = merged(made, planned)
    return made, {**({"weights": origin} if origin else {}), **({"loras": records} if records else {})}


def check_loras(class_name: str, config: Mapping[str, Any], loras: Sequence[LoraFile]) -> None:
    """Raises ExportError for adapters that do not fit the transformer; its weights are not looked at."""
    own = class_name in {each.class_name for each in SUPPORTED}
    plan(_empty(class_name, config, tables=not own), loras, class_name)


def build_model(
    class_name: str,
    config: Mapping[str, Any],
    weights: Sequence[WeightFile] | int,
    *,
    renamed: Callable[[StateDict], StateDict] = lambda state: state,
) -> tuple[nn.Module, dict[str, Any]]:
    """Any class of diffusers, and where its tensors came from, as in `Checkpoint.origin`; empty for a seed.

    `renamed` gives the tensors of old files today's names.
    """
    made = _empty(class_name, config, tables=True)
    return made, _filled(made, class_name, weights, renamed)


def _filled_own(made: nn.Module, class_name: str, weights: Sequence[WeightFile] | int) -> dict[str, Any]:
    """Fills one of `SUPPORTED`, whose table of positions is computed again."""
    if isinstance(weights, int):
        check_memory(sum(weight.numel() for weight in made.parameters()), class_name)
        made.to_empty(device="cpu")
        _restore_table(made, also_saved=True)
        randomise(made, weights)
        return {}
    found = read_shards(weights, names_of(made))
    load_into(made, found.state)
    _restore_table(made, also_saved=False)
    return found.origin


def _filled(
    made: nn.Module,
    class_name: str,
    weights: Sequence[WeightFile] | int,
    renamed: Callable[[StateDict], StateDict] = lambda state: state,
) -> dict[str, Any]:
    if isinstance(weights, int):
        check_memory(sum(weight.numel() for weight in made.parameters()), class_name)
        given_memory(made)
        randomise(made, weights)
        return {}
    found = read_shards(weights, names_of(made))
    load_into(made, renamed(found.state))
    return found.origin


@torch.no_grad()
def randomise(module: nn.Module, seed: int) -> None:
    """Draws every parameter in place, AdaLN and output layers included; activations stay near unit variance."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in module.named_parameters():
        weight.normal_(*_moments(name, weight), generator=generator)


QUANTISED = "the model is quantised: dequantise it, save it in float32 or float16, and give that folder"
AVERAGING = ("decay", "min_decay", "optimization_step", "update_after_step", "use_ema_warmup", "inv_gamma", "power")
"""What diffusers' `EMAModel.save_pretrained` adds to a config: how the weights were averaged, not what they are."""


def constructor_arguments(made_by: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """What of `config` the class takes. An entry that it doesn't know may only say "nothing special": null or false.

    So does the default of the class that wrote the config, where that is an older one (`Transformer2DModel`).
    Raises ExportError for any other unknown entry: the model would silently be another one.
    """
    nothing = _defaults(str(config.get("_class_name")), made_by)
    known = [name for name in inspect.signature(made_by.__init__).parameters if name != "self"]
    entries = {name: value for name, value in config.items() if not name.startswith("_")}
    for name, value in entries.items():
        averaging = name in AVERAGING and set(AVERAGING) <= config.keys()
        if name not in known and value not in (None, False, nothing.get(name)) and not averaging:
            quantised = QUANTISED if name == "quantization_config" else None
            hint = quantised or did_you_mean(name, known) or "a newer diffusers may know it: pip install -U diffusers"
            raise ExportError(f"{made_by.__name__} has no argument '{name}' (which is {value!r})", hint=hint)
    return {name: value for name, value in entries.items() if name in known}


def _defaults(written_by: str, made_by: Any) -> dict[str, Any]:
    """The constructor's defaults of the class that wrote a config, where another one takes its place."""
    if written_by != LEGACY or written_by == made_by.__name__:
        return {}
    parameters = inspect.signature(transformer_class(written_by).__init__).parameters
    return {name: each.default for name, each in parameters.items() if each.default is not inspect.Parameter.empty}


def transformer_class(class_name: str) -> Any:
    """The class in diffusers. Raises ExportError, naming the extra, where the package is missing or too old."""
    hint = "install the extra: pip install 'dsr-export[models]'"
    try:
        found = getattr(importlib.import_module("diffusers"), class_name, None)
    except ImportError as error:
        raise ExportError(f"{class_name} needs the package diffusers ({error})", hint=hint) from error
    if found is None:
        raise ExportError(f"the diffusers installed here has no {class_name}", hint=hint)
    return found


def _empty(class_name: str, config: Mapping[str, Any], *, tables: bool) -> nn.Module:
    """The architecture without memory: no initialisation, and no use of torch's global generator.

    With `tables`, what is computed and no weight has its memory, and its values.
    """
    made_by = transformer_class(class_name)
    arguments = constructor_arguments(made_by, config)
    check_config(arguments, f"the config of {class_name}")
    try:
        if tables:
            return built(lambda: made_by(**arguments)).eval()
        with torch.device("meta"):
            made: nn.Module = made_by(**arguments)
    except (ValueError, TypeError, NotImplementedError, RuntimeError, AssertionError, ArithmeticError) as error:
        # what the constructors raise on sizes that do not fit together
        raise ExportError(
            f"{class_name} refuses its config: {error}", hint="compare it with the model's own"
        ) from error
    return made.eval()


def _restore_table(module: Any, *, also_saved: bool) -> None:
    """Recomputes the sin-cos table, which has no memory yet unless it came with the weights."""
    embed = module.pos_embed
    table = getattr(embed, "pos_embed", None)
    if isinstance(table, Tensor) and (table.is_meta or also_saved):
        side = embed.pos_embed_max_size or embed.height
        scale = embed.interpolation_scale
        embed.pos_embed = sincos_table(table.shape[-1], side, side, base=embed.base_size, scale=scale)
    left = [name for name, tensor in [*module.named_parameters(), *module.named_buffers()] if tensor.is_meta]
    if left:
        raise ExportError(f"{type(module).__name__}: nothing fills {', '.join(left[:3])}", hint="a bug in dsr-export")


def _moments(name: str, weight: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of the weight called `name`."""
    if name.endswith("bias"):
        return 0.0, 0.05
    if name.endswith("embedding_table.weight"):
        return 0.0, 1.0
    if weight.ndim == 1:
        return 1.0, 0.1  # norms
    fan_in = weight.shape[-1] if "scale_shift_table" in name else weight.numel() // weight.shape[0]
    return 0.0, float(fan_in**-0.5)
