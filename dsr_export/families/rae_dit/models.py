"""The registered sizes of the `rae-dit` family, and how a `Subject` is made of one; `rae-dit-dh` shares the how."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import Tensor

from dsr_export.checkpoints import StateDict, Wanted, load_into, read_checkpoint
from dsr_export.declarations.weight_file import WeightFile
from dsr_export.errors import ExportError
from dsr_export.families import file_sha256
from dsr_export.families.rae_dit.config import RAE_DIT, Config, Schema, Value, resolve
from dsr_export.families.rae_dit.network import RaeDit, RaeDitConfig, Trunk
from dsr_export.families.randomise import drawn, without_memory
from dsr_export.families.replacements import apply_replacements
from dsr_export.sampling import SamplerSpec
from dsr_export.spec import DenoiserSpec, DsrSpec, ReplaceSpec
from dsr_export.subject import Subject
from graphs.artifacts import TensorSpec

Module = TypeVar("Module", bound=Trunk)
KNOWN_NAMES = Wanted(
    (
        *(f"blocks.0.{name}.weight" for name in ("attn.qkv", "attn.proj", "adaLN_modulation.1")),
        *(f"t_embedder.mlp.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")),
        *("y_embedder.embedding_table.weight", "final_layer.linear.weight", "final_layer.linear.bias"),
        *(f"transformer_blocks.0.attn1.to_{part}.weight" for part in "qkv"),
        *("pos_embed.proj.weight", "proj_out_1.weight", "proj_out_1.bias", "proj_out_2.weight", "proj_out_2.bias"),
    )
)
"""By which a denoiser's weights are found among others: names that all of these families have, and diffusers' DiT."""
Widths = tuple[str, int]
"""Hidden sizes, `1152` or `1152 + 2048`, and the number of blocks."""
REGISTERS = 36  # arXiv 2605.05206
SIZES: dict[str, dict[str, Value]] = {
    "rae-dit-s": {"hidden_size": 384, "depth": 12, "num_heads": 6},
    "rae-dit-b": {"hidden_size": 768, "depth": 12, "num_heads": 12},
    "rae-dit-l": {"hidden_size": 1024, "depth": 24, "num_heads": 16},
    "rae-dit-xl": {"hidden_size": 1152, "depth": 28, "num_heads": 16},
}
"""Base models: arXiv 2510.11690. Other fields have `RaeDitConfig`'s defaults."""


@dataclass(frozen=True, kw_only=True)
class Family(Generic[Config]):
    """One architecture. `widths_of` reads a configuration, `widths_in` a checkpoint (None: not one of this family)."""

    schema: Schema[Config]
    module: Callable[[Config], Trunk]
    sizes: Mapping[str, Mapping[str, Value]]
    widths_of: Callable[[Config], Widths]
    widths_in: Callable[[Mapping[str, Tensor]], Widths | None]

    @property
    def name(self) -> str:
        """Also what the model of any size is called."""
        return self.schema.family


def load(
    name: str,
    *,
    checkpoint: WeightFile | None,
    random_weights: int | None,
    registers: int | None,
    replace: Sequence[ReplaceSpec] | None,
    config: Mapping[str, Value],
) -> Subject:
    """Loads `rae-dit-*`, or `rae-dit` with its sizes in `config`; see `families.load_subject`."""
    weights, provenance = read_weights(checkpoint, random_weights)
    module = load_module(FAMILY, name, weights, registers=registers, config=config)
    return subject_from_module(name, module, replace=replace or (), provenance=provenance)


def load_module(
    family: Family[Any],
    name: str,
    weights: StateDict | int,
    *,
    registers: int | None,
    config: Mapping[str, Value],
) -> Trunk:
    """The registered model `name` of `family`. Raises ExportError where options and weights do not fit."""
    if name == family.name:
        _check_free(family, config)
    base = {**family.sizes[name], "register_len": REGISTERS} if name in family.sizes else {}
    state = None if isinstance(weights, int) else weights
    resolved = resolve(family.schema, base, registers=registers, options=config, state=state)
    if state is not None:
        check_widths(family, name, resolved, state)
    return build(family.module, resolved, weights)


def read_weights(checkpoint: WeightFile | None, random_weights: int | None) -> tuple[StateDict | int, dict[str, Any]]:
    """A checkpoint's tensors, or else the seed; and the provenance either gives."""
    if checkpoint is not None:
        found = read_checkpoint(checkpoint, KNOWN_NAMES)
        return found.state, {"checkpoint_sha256": file_sha256(checkpoint.path), "weights": found.origin}
    if random_weights is None:
        raise ExportError("no weights are given", hint="give --checkpoint FILE or --random-weights SEED")
    return random_weights, {"random_seed": random_weights}


def build(make: Callable[[Config], Module], config: Config, weights: StateDict | int) -> Module:
    """The module with the tensors in `weights`, or drawn from that seed. Raises ExportError where they do not fit."""
    if isinstance(weights, int):
        return drawn(make, config, weights)
    module = without_memory(make, config)
    load_into(module, weights)
    return module


def build_module(config: RaeDitConfig, weights: StateDict | int) -> RaeDit:
    """`build` for `rae-dit`."""
    return build(RaeDit, config, weights)


def subject_from_module(
    name: str,
    module: Trunk,
    *,
    replace: Sequence[ReplaceSpec] = (),
    sampler: SamplerSpec | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Subject:
    """A loaded model as a Subject: `x [batch, C, H, W]`, `t [batch]`, `y [batch] int64` -> `out`, as `x`.

    Applies the groups in `replace`; raises ExportError where they do not fit the model.
    """
    trunk = module.trunk
    apply_replacements(module, replace, stream=trunk)
    image = ("batch", trunk.in_channels, trunk.input_size, trunk.input_size)
    return Subject(
        name=name,
        family=module.FAMILY,
        module=module.eval().requires_grad_(False),
        inputs=(
            TensorSpec(name="x", dtype="float32", shape=image),
            TensorSpec(name="t", dtype="float32", shape=("batch",)),
            TensorSpec(name="y", dtype="int64", shape=("batch",)),
        ),
        outputs=(TensorSpec(name="out", dtype="float32", shape=image),),
        dsr=DsrSpec(denoiser=_denoiser(trunk, tuple(replace))),
        sampler=sampler or default_sampler(trunk),
        num_classes=trunk.num_classes,
        config=dataclasses.asdict(module.config),
        provenance=dict(provenance or {}),
        fp32_modules=module.FP32_MODULES,
    )


def default_sampler(config: RaeDitConfig) -> SamplerSpec:
    """The released sampler; the time shift depends on the latent's size. No null label without label dropout."""
    return SamplerSpec(
        num_steps=50,
        prediction="data",
        shift_dim=config.in_channels * config.input_size**2,
        shift_base=4096,
        guidance=1.0,
        null_label=config.num_classes if config.class_dropout_prob > 0 else None,
    )


def check_widths(family: Family[Any], name: str, config: Any, state: Mapping[str, Tensor]) -> None:
    """A checkpoint of another size or family is named at once, rather than by 300 shape mismatches."""
    found, wanted = family.widths_in(state), family.widths_of(config)
    if found is None or found == wanted:
        return
    fitting = [size for size, s in family.sizes.items() if family.widths_of(resolve(family.schema, s)) == found]
    raise ExportError(
        f"the checkpoint has hidden size {found[0]} and {found[1]} blocks, '{name}' {wanted[0]} and {wanted[1]}",
        hint=f"use {fitting[0]}" if fitting else f"use {family.name} with hidden_size, depth and num_heads",
    )


def count_blocks(state: Mapping[str, Tensor]) -> int:
    """Blocks in a checkpoint."""
    return len({key.split(".")[1] for key in state if key.startswith("blocks.")})


def _denoiser(trunk: RaeDitConfig, replace: tuple[ReplaceSpec, ...]) -> DenoiserSpec:
    if not trunk.register_conditioning:
        return DenoiserSpec(kind="none", replace=replace)
    return DenoiserSpec(kind="diffusion", registers=trunk.register_len, start=trunk.register_start, replace=replace)


def _check_free(family: Family[Any], config: Mapping[str, Value]) -> None:
    absent = [field for field in ("hidden_size", "depth", "num_heads") if field not in config]
    if absent:
        raise ExportError(
            f"model '{family.name}' needs {', '.join(absent)}",
            hint="give them, or name a size: " + ", ".join(family.sizes),
        )


def _widths_in(state: Mapping[str, Tensor]) -> Widths | None:
    if "s_embedder.proj.weight" in state:
        raise ExportError("the checkpoint is one of DiT^DH, which has a wide head", hint="use rae-dit-dh-xl")
    position, blocks = state.get("pos_embed"), count_blocks(state)
    return (str(position.shape[-1]), blocks) if position is not None and blocks else None


FAMILY = Family(
    schema=RAE_DIT,
    module=RaeDit,
    sizes=SIZES,
    widths_of=lambda config: (str(config.hidden_size), config.depth),
    widths_in=_widths_in,
)
