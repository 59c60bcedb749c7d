"""The registered sizes of the `rae-dit` family, and how one is loaded."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from dsr_export.errors import ExportError
from dsr_export.families.family import Family, load_module, read_weights
from dsr_export.families.network_parts.conditional import conditional_subject
from dsr_export.families.rae_dit.config import RAE_DIT
from dsr_export.families.rae_dit.network import RaeDit, RaeDitConfig
from dsr_export.families.request import FamilyRequest
from dsr_export.families.schema import Value
from dsr_export.families.shapes import Widths, count_blocks
from dsr_export.sampling import SamplerSpec
from dsr_export.subject import Subject

REGISTERS = 36  # arXiv 2605.05206
SIZES: dict[str, dict[str, Value]] = {
    "rae-dit-s": {"hidden_size": 384, "depth": 12, "num_heads": 6, "register_len": REGISTERS},
    "rae-dit-b": {"hidden_size": 768, "depth": 12, "num_heads": 12, "register_len": REGISTERS},
    "rae-dit-l": {"hidden_size": 1024, "depth": 24, "num_heads": 16, "register_len": REGISTERS},
    "rae-dit-xl": {"hidden_size": 1152, "depth": 28, "num_heads": 16, "register_len": REGISTERS},
}
"""Base models: arXiv 2510.11690. Other fields have `RaeDitConfig`'s defaults."""


def load(asked: FamilyRequest) -> Subject:
    """Loads `rae-dit-*`, or `rae-dit` with its sizes in the options."""
    weights, provenance = read_weights(asked)
    module = load_module(FAMILY, asked, weights)
    sampler = released_sampler(module.config)
    return conditional_subject(asked.model, module, replace=asked.groups, sampler=sampler, provenance=provenance)


def released_sampler(trunk: RaeDitConfig) -> SamplerSpec:
    """The time shift depends on the latent's size. No null label without label dropout."""
    return SamplerSpec(
        num_steps=50,
        prediction="data",
        shift_dim=trunk.in_channels * trunk.input_size**2,
        shift_base=4096,
        guidance=1.0,
        null_label=trunk.num_classes if trunk.class_dropout_prob > 0 else None,
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
