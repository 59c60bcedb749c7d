"""What a fused kernel multiplies that reads codes: the types it reads, or floats where both become floats."""

from __future__ import annotations

import pytest

from dsr_export.engine_schedule.reader import read_schedule
from tests.engine_schedule.tiny_plan import FALLBACK, PLAN, ROWS, library, tensor

INSIDE = 'region=""'
PRODUCT = ('"product"', "blocks.0.attn.qkv/MatMul")


def _plan(weight: str, activation: str, steps: str) -> bytes:
    """The tiny plan with other types of what its fused GEMM reads, and what its program does before the product."""
    told = {"half": 2, "int8": 1, "fp8_e4m3": 1}
    outer = PLAN.decode("latin-1")
    for old, new in (
        (
            tensor("w", "32 96", "96 1", "half", "6144 region=consts"),
            tensor("w", "32 96", "96 1", weight, f"{told[weight] * 32 * 96} region=consts"),
        ),
        (tensor("h", f"{ROWS} 32", "32 1", "half"), tensor("h", f"{ROWS} 32", "32 1", activation)),
        (FALLBACK, _fallback(weight, activation, steps)),
    ):
        assert old in outer
        outer = outer.replace(old, new)
    return outer.encode("latin-1")


def _fallback(weight: str, activation: str, steps: str) -> str:
    made = FALLBACK
    for name, sizes, kind in (("w", ("32 96", "96 1"), weight), ("h", (f"{ROWS} 32", "32 1"), activation)):
        floats = [tensor(f"{name}{i}", *sizes, "half", INSIDE) for i in (1, 2)]
        made = made.replace(
            tensor(name, *sizes, "half", INSIDE), "".join([tensor(name, *sizes, kind, INSIDE), *floats])
        )
    operands = ['"h2"' if "h2" in steps else '"h"', '"w2"' if "w2" in steps else '"w"']
    return made.replace(library("qkv", '"h" "w"', *PRODUCT), steps + library("qkv", " ".join(operands), *PRODUCT))


def _step(kind: str, made: str, *read: str) -> str:
    names = " ".join(f'"{name}"' for name in read)
    return f'  {kind}={{ name="{kind}_{made}" output={{"{made}" }} input={{{names} }} stream=0  layers="" }}\n'


WEIGHTS = _step("cast", "w1", "w") + _step("mul", "w2", "w1", "b")
TOKENS = _step("cast", "h1", "h") + _step("mul", "h2", "h1", "n_proxy.1")


@pytest.mark.parametrize(
    ("weight", "activation", "steps", "computes"),
    [
        ("half", "half", "", "float16"),
        ("int8", "half", WEIGHTS, "float16 x int8"),
        ("fp8_e4m3", "half", WEIGHTS, "float16 x float8e4m3"),
        ("int8", "int8", "", "int8"),
        ("fp8_e4m3", "fp8_e4m3", "", "float8e4m3"),
        ("int8", "int8", WEIGHTS + TOKENS, "float16"),  # chosen for INT8, and it is not
        ("half", "half", _step("mul", "w2", "w", "w1"), "float16"),
    ],
)
def test_codes_that_become_floats_on_their_way_count_where_one_side_has_them(
    weight: str, activation: str, steps: str, computes: str
) -> None:
    schedule = read_schedule(_plan(weight, activation, steps), 2)
    (gemm,) = [each for each in schedule.launches if "blocks.0.attn.qkv/MatMul" in each.nodes]
    assert gemm.computes == computes
