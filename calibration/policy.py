"""Which GEMMs become INT8, and which of them have conditions for inputs.

Sources: TensorRT's and ModelOpt's rules. Embedders and final layers stay as they are, GEMMs narrower than 16 too. A
GEMM of few rows (a timestep's AdaLN) is bound by reading its weight, so that its input can have twice the bits.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from graphs.names import module_of
from graphs.structure.norm_outputs import norm_outputs
from graphs.weights.gemms import WeightGemm, outer_gemms, weight_gemms

NARROWEST = 16
FEWEST_ROWS = 16
LARGE_SHARE = 0.002  # of all weights: smaller ones are not worth an op


@dataclass(frozen=True)
class Selection:
    """GEMMs by what becomes of them. `total_flops` counts every weight GEMM of one sample.

    `normed` are the activations that come from a norm.
    """

    integer: tuple[WeightGemm, ...]
    conditions: tuple[WeightGemm, ...]
    total_flops: int
    normed: frozenset[str] = frozenset()

    @property
    def all(self) -> tuple[WeightGemm, ...]:
        return (*self.integer, *self.conditions)


def select(graph: gs.Graph, kept_modules: Collection[str], outer_modules: Collection[str] = ()) -> Selection:
    """Chooses by shape and place; a sensitivity pass may take GEMMs back later. Needs inferred shapes.

    Nothing of `kept_modules` is chosen, and of `outer_modules` only what a launch of conditions takes along.
    """
    found, outer = weight_gemms(graph), outer_gemms(graph)
    open_to_all = [gemm for gemm in found if not _kept(gemm, kept_modules) and _wide(gemm)]
    inner = [gemm for gemm in open_to_all if not _kept(gemm, outer_modules)]
    integer = tuple(g for g in inner if g.rows >= FEWEST_ROWS and g.node.name not in outer)
    conditions = _with_sharers(_large([gemm for gemm in inner if gemm.of_condition], found), open_to_all)
    normed = norm_outputs(graph, [gemm.activation for gemm in integer])
    return Selection(integer, tuple(conditions), sum(gemm.flops for gemm in found), normed)


def _with_sharers(conditions: Sequence[WeightGemm], everything: Sequence[WeightGemm]) -> list[WeightGemm]:
    """A final layer's modulation reads what those of the blocks read: in their GEMM it costs no launch of its own."""
    shared = {id(gemm.activation) for gemm in conditions}
    return [gemm for gemm in everything if gemm.of_condition and id(gemm.activation) in shared]


def _kept(gemm: WeightGemm, modules: Collection[str]) -> bool:
    module = module_of(gemm.node.name)
    return any(module == path or module.startswith(path + ".") for path in modules)


def _wide(gemm: WeightGemm) -> bool:
    return min(gemm.in_features, gemm.out_features) >= NARROWEST


def _large(gemms: Sequence[WeightGemm], everything: Sequence[WeightGemm]) -> list[WeightGemm]:
    total = sum(gemm.in_features * gemm.out_features for gemm in everything)
    return [gemm for gemm in gemms if gemm.in_features * gemm.out_features >= LARGE_SHARE * total]
