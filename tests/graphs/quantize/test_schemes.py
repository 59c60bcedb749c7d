"""Formats of each precision: those that a GEMM's inputs are whole blocks of, the cheapest first."""

from __future__ import annotations

import pytest

from graphs.precisions import PRECISIONS, Precision
from graphs.quantize.schemes import SCHEMES


@pytest.mark.parametrize(
    ("precision", "inputs", "formats"),
    [
        ("int4", 64, ["int4", "int8"]),
        ("int4", 48, ["int8"]),
        ("nvfp4", 48, ["nvfp4", "fp8", "int8"]),
        ("nvfp4", 40, ["fp8", "int8"]),
        ("nvfp4-weights", 40, ["fp8", "int8"]),
        ("fp8", 40, ["fp8", "int8"]),
        ("int8", 40, ["int8"]),
    ],
)
def test_blocks_of_weights_are_whole_ones(precision: Precision, inputs: int, formats: list[str]) -> None:
    assert [form.name for form in SCHEMES[precision].formats(inputs)] == formats


def test_every_quantised_precision_has_a_scheme_of_its_own_types() -> None:
    assert set(SCHEMES) == {name for name, record in PRECISIONS.items() if record.quantized}
    for name, scheme in SCHEMES.items():
        types = {form.weights.type for form in (*scheme.tokens, scheme.condition)}
        assert types == PRECISIONS[name].narrow_types
        assert scheme.tokens[0].name == name and scheme.smoothed in scheme.tokens
