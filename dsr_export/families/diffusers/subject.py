"""A diffusers transformer and what is asked of it, as a `Subject`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from dsr_export.declarations.lora_file import LoraFile
from dsr_export.declarations.weight_file import WeightFile
from dsr_export.errors import ExportError, did_you_mean
from dsr_export.families.config_bounds import MOST_SIDE
from dsr_export.families.diffusers.adapters import adapter_of
from dsr_export.families.diffusers.register_rows import AskedRegisters
from dsr_export.families.diffusers.weights import build_transformer
from dsr_export.families.diffusers.wrapper import DiffusersDenoiser, LatentSize
from dsr_export.families.digests import Value
from dsr_export.families.fixed_values import fixed_digests
from dsr_export.families.network_parts.replacements import apply_replacements
from dsr_export.spec import DenoiserSpec, DsrSpec, ReplaceSpec
from dsr_export.subject import Subject
from graphs.artifacts import TensorSpec

FAMILY = "diffusers"
SIZES = ("latent_height", "latent_width", "text_tokens", "register_start")
OPTIONS = (*SIZES, "register_file")
"""Options that are no constructor arguments: what is static in the graph, and which registers are inserted where."""
MOST_TEXT = 2**16
FLUX_LATENT = 128  # its config has no sample size; its pipelines make 1024x1024 pictures


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Which transformer, with which weights (files, or a seed), and what is done to its tokens.

    `options` are those in `OPTIONS`: `register_file` (.safetensors, `registers` [R, D]) inserts registers before block
    `register_start`. `registers` is their number, or with random weights how many are drawn.
    """

    name: str
    class_name: str
    config: Mapping[str, Any]
    weights: Sequence[WeightFile] | int
    provenance: Mapping[str, Any]
    options: Mapping[str, Value] = field(default_factory=dict)
    registers: int | None = None
    replace: Sequence[ReplaceSpec] = ()
    loras: Sequence[LoraFile] = ()

    def __post_init__(self) -> None:
        for option, value in self.options.items():
            if option not in OPTIONS:
                names = f"known options: {', '.join(OPTIONS)}; the rest is in config.json"
                near = did_you_mean(option, OPTIONS)
                raise ExportError(f"{self.name} has no option '{option}'", hint=f"{near} {names}" if near else names)
            least = 0 if option == "register_start" else 1
            most = MOST_TEXT if option == "text_tokens" else MOST_SIDE
            if option in SIZES and type(value) is int and value > most:
                raise ExportError(f"option {option}={value!r} is more than {most}")
            if option in SIZES and (type(value) is not int or value < least):
                raise ExportError(f"option {option}={value!r} is no whole number of at least {least}")

    def size(self, option: str, default: int) -> int:
        """The option's value, or `default` where it is not given."""
        return int(self.options.get(option, default))


def subject_from(asked: Asked) -> Subject:
    """Builds the transformer, inserts registers and replacement, and declares inputs and outputs.

    Raises ExportError for sizes, weights, registers and groups that do not fit the model.
    """
    transformer, origin = build_transformer(asked.class_name, asked.config, asked.weights, asked.loras)
    module = _module(asked, transformer)
    apply_replacements(module, asked.replace, text=module.text)
    config = module.transformer.config
    return Subject(
        name=asked.name,
        family=FAMILY,
        module=module.eval().requires_grad_(False),
        inputs=module.inputs(),
        outputs=(TensorSpec(name="out", dtype="float32", shape=module.output_shape()),),
        dsr=DsrSpec(denoiser=_denoiser(module, tuple(asked.replace))),
        num_classes=module.num_classes,
        config={**_declared(asked.class_name, config), **asdict(module.size), **_fixed(module)},
        provenance={**asked.provenance, **origin},
        outer_modules=module.outer_modules(),
        draws=module.draws(),
        special_rows=True,
        grid=module.grid,
        text_rows=module.text_rows,
    )


def _module(asked: Asked, transformer: Any) -> DiffusersDenoiser:
    adapter = adapter_of(asked.class_name)
    seed = asked.weights if isinstance(asked.weights, int) else None
    registers = AskedRegisters(name=asked.name, options=asked.options, count=asked.registers, seed=seed)
    rows = registers.rows(int(transformer.inner_dim))
    start = registers.start(len(adapter.blocks_of(transformer)), rows)
    side = int(transformer.config.get("sample_size") or FLUX_LATENT)
    latent = LatentSize(
        height=asked.size("latent_height", side),
        width=asked.size("latent_width", side),
        text_tokens=asked.size("text_tokens", adapter.TEXT_TOKENS),
    )
    return adapter(transformer, latent, rows, start)


def _denoiser(module: DiffusersDenoiser, replace: tuple[ReplaceSpec, ...]) -> DenoiserSpec:
    if not module.register_count:
        return DenoiserSpec(kind="none", replace=replace)
    count, start = module.register_count, module.register_start
    return DenoiserSpec(kind="diffusion", registers=count, start=start, rows=module.register_rows, replace=replace)


def _declared(class_name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    return {"_class_name": class_name, **_public(config)}


def _fixed(module: DiffusersDenoiser) -> dict[str, Any]:
    constants = fixed_digests(module.constants())
    return {"constants": constants} if constants else {}


def _public(config: Mapping[str, Any]) -> dict[str, Any]:
    """The constructor's arguments; a diffusers config holds bookkeeping of its own beside them."""
    return {name: value for name, value in config.items() if not name.startswith("_")}
