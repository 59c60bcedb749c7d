"""What may become of a GEMM in each quantised precision: formats as data, that calibration and rewrites read.

A precision has several for GEMMs of tokens, the one asked for first: what the output cannot bear in one takes the next,
and what it can bear in none stays FP16. FP8's four significant bits cost more than INT8's seven wherever tokens do not
differ much; both are a byte, and a device that has FP8 multiplies both at one rate, so that INT8 is the next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from graphs.precisions import Precision
from graphs.quantize.formats import FLOATS, FP4, FP8, INT4, INT8, CodeFormat


@dataclass(frozen=True, kw_only=True)
class GemmFormat:
    """Formats of weights and activations (`FLOATS` for those that stay floats).

    `block` inputs of an output channel share a step, all where it is None; `scales` is the format of these steps, None
    for FP16. A branch of `rank` in floats takes what of the weight is largest.

    `for_cpus` says that ONNX Runtime's processors compute in it, so that weights keep clear of what AVX2 saturates.
    """

    name: str
    weights: CodeFormat
    activations: CodeFormat
    block: int | None = None
    scales: CodeFormat | None = None
    rank: int = 0
    for_cpus: bool = False


INTEGER = GemmFormat(name="int8", weights=INT8, activations=INT8, for_cpus=True)
EIGHT_BIT_FLOAT = GemmFormat(name="fp8", weights=FP8, activations=FP8)
FOUR_BIT_WEIGHT = GemmFormat(name="int4", weights=INT4, activations=FLOATS, block=64)
FOUR_BIT_FLOAT_WEIGHT = GemmFormat(name="nvfp4-weights", weights=FP4, activations=FLOATS, block=16, scales=FP8)
FOUR_BIT_FLOAT = GemmFormat(name="nvfp4", weights=FP4, activations=FP4, block=16, scales=FP8, rank=32)


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """`tokens` are the formats of GEMMs of tokens, the cheapest first. `condition` is that of GEMMs which read one row:
    they only wait for their weights, and an error of theirs reaches every token. `smoothed` is the format that channel
    factors are chosen for. `budget_db` is the SNR that the output keeps where nobody asks for another; beyond it,
    formats that cost nothing are taken until it keeps `beyond_db` more than with all in the first one."""

    tokens: tuple[GemmFormat, ...]
    condition: GemmFormat
    smoothed: GemmFormat
    budget_db: float
    beyond_db: float = 0.0

    @property
    def name(self) -> str:
        """As it is said."""
        return self.tokens[0].name.upper()

    @property
    def has_branch(self) -> bool:
        """Whether the first format has a branch in floats."""
        return self.tokens[0].rank > 0

    @property
    def weights_alone(self) -> bool:
        """Whether activations of the first format stay floats."""
        return not self.tokens[0].activations.is_code

    @property
    def for_cpus(self) -> bool:
        """Whether it is made for ONNX Runtime's processors, too."""
        return self.tokens[0].for_cpus

    def formats(self, inputs: int) -> tuple[GemmFormat, ...]:
        """Those of a GEMM of tokens with so many inputs: blocks of weights are whole ones."""
        return tuple(each for each in self.tokens if each.block is None or inputs % each.block == 0)


SCHEMES: Mapping[Precision, Scheme] = {
    "int8": Scheme(tokens=(INTEGER,), condition=INTEGER, smoothed=INTEGER, budget_db=20.0),
    "fp8": Scheme(
        tokens=(EIGHT_BIT_FLOAT, INTEGER), condition=INTEGER, smoothed=INTEGER, budget_db=26.0, beyond_db=6.0
    ),
    "int4": Scheme(tokens=(FOUR_BIT_WEIGHT, INTEGER), condition=INTEGER, smoothed=FOUR_BIT_WEIGHT, budget_db=17.0),
    "nvfp4-weights": Scheme(
        tokens=(FOUR_BIT_FLOAT_WEIGHT, EIGHT_BIT_FLOAT, INTEGER),
        condition=INTEGER,
        smoothed=FOUR_BIT_FLOAT_WEIGHT,
        budget_db=17.0,
    ),
    "nvfp4": Scheme(
        tokens=(FOUR_BIT_FLOAT, EIGHT_BIT_FLOAT, INTEGER),
        condition=INTEGER,
        smoothed=FOUR_BIT_FLOAT,
        budget_db=15.0,
    ),
}
"""By precision; those that are not quantised have none."""


def scheme_of(precision: Precision, rank: int | None = None) -> Scheme:
    """That of the precision, with branches of another `rank` where one is given (0: without)."""
    scheme = SCHEMES[precision]
    if rank is None or not scheme.has_branch:
        return scheme
    first = replace(scheme.tokens[0], rank=rank)
    return replace(scheme, tokens=(first, *scheme.tokens[1:]), smoothed=first)
