"""Plans on disk: each format's own, read back as it was written, codes left where they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsr_export.int8.plan_files import ALIGNMENT, CODES, PlanWriter, chosen_plan, read_plans
from graphs.quantize.formats import FLOATS, FP4, FP8, INT4, INT8, CodeFormat, format_of
from graphs.quantize.quantizers import Activation, QuantizedGemm
from graphs.quantize.schemes import SCHEMES
from graphs.weights.stored import StoredValues

SCHEME = SCHEMES["fp8"]


def _gemm(form: CodeFormat, seed: int, shape: tuple[int, int] = (5, 3), *, condition: bool = False) -> QuantizedGemm:
    rng = np.random.default_rng(seed)
    numbers = form.nearest(rng.standard_normal(shape) * form.largest / 2)
    activation = Activation(step=0.1 * (seed + 1), format=FLOATS if form == INT4 else form)
    if seed % 2:
        activation = Activation(
            step=0.5, rows="static", row_factors=rng.uniform(1, 2, 7).astype(np.float32), format=form
        )
    return QuantizedGemm(
        codes=form.codes(numbers),
        weight_steps=rng.uniform(0.1, 1, shape[1]).astype(np.float32),
        activation=None if condition else activation,
        bias_shift=rng.standard_normal(shape[1]).astype(np.float32) if seed % 3 == 0 else None,
        product_steps=rng.uniform(1, 2, shape[1]).astype(np.float32) if seed % 3 == 1 else None,
    )


@pytest.fixture
def made() -> dict[str, dict[str, QuantizedGemm]]:
    """Two GEMMs of tokens, each in both formats, and a condition."""
    return {
        "q": {"fp8": _gemm(FP8, 0), "int8": _gemm(INT8, 1)},
        "k": {"fp8": _gemm(FP8, 2, (16, 4)), "int8": _gemm(INT8, 3, (16, 4))},
        "ada": {"int8": _gemm(INT8, 6, (9, 2), condition=True)},
    }


def _write(folder: Path, made: dict[str, dict[str, QuantizedGemm]]) -> None:
    writers = {form.name: PlanWriter(folder, form.name) for form in (*SCHEME.tokens, SCHEME.condition)}
    for name, formats in made.items():
        for form, gemm in formats.items():
            writers[form].add(name, gemm)
    for writer in writers.values():
        writer.close()


def test_every_format_is_read_back_as_it_was_written(tmp_path: Path, made: dict[str, dict[str, QuantizedGemm]]) -> None:
    _write(tmp_path, made)
    found = read_plans(tmp_path, SCHEME)
    assert {name: list(formats) for name, formats in found.items()} == {n: list(each) for n, each in made.items()}
    for name, formats in made.items():
        for form, gemm in formats.items():
            _assert_same(found[name][form], gemm)


def test_one_plan_has_the_format_that_each_was_given(tmp_path: Path, made: dict[str, dict[str, QuantizedGemm]]) -> None:
    _write(tmp_path, made)
    chosen = chosen_plan(read_plans(tmp_path, SCHEME), {"q": "int8", "k": "fp8"})
    assert {name: format_of(gemm.codes) for name, gemm in chosen.items()} == {"q": INT8, "k": FP8}
    _assert_same(chosen["k"], made["k"]["fp8"])


def test_a_format_that_no_gemm_has_leaves_an_empty_plan(tmp_path: Path) -> None:
    """As of a model all of whose GEMMs are those of conditions."""
    _write(tmp_path, {"ada": {"int8": _gemm(INT8, 6, (9, 2), condition=True)}})
    assert {name: list(formats) for name, formats in read_plans(tmp_path, SCHEME).items()} == {"ada": ["int8"]}


@pytest.mark.parametrize("precision", [name for name in SCHEMES if name != "int8"])
@pytest.mark.parametrize("shape", [(32, 3), (33, 5)], ids=["even", "odd"])
def test_codes_of_every_width_steps_of_blocks_and_branches_come_back(
    precision: Any, shape: tuple[int, int], tmp_path: Path
) -> None:
    """Two to a byte, an odd one at the end: the next GEMM's start where they should."""
    scheme, rng = SCHEMES[precision], np.random.default_rng(0)
    made: dict[str, dict[str, QuantizedGemm]] = {"q": {}, "k": {}}
    for name, seed in (("q", 0), ("k", 2)):
        for form in scheme.tokens:
            gemm = _gemm(form.weights, seed, shape)
            if form.block is not None:
                steps = rng.uniform(0.1, 1, (2, shape[1])).astype(np.float32)
                gemm = replace(gemm, weight_steps=steps, unit=0.25 if form.scales else 1.0)
            if form.rank:
                gemm = replace(gemm, branch=(rng.uniform(size=(shape[0], 4)), rng.uniform(size=(4, shape[1]))))
            if not form.activations.is_code:
                gemm = replace(gemm, activation=Activation(step=1.0, format=FLOATS))
            made[name][form.name] = gemm
    writers = {form.name: PlanWriter(tmp_path, form.name) for form in (*scheme.tokens, scheme.condition)}
    for name, formats in made.items():
        for form_name, gemm in formats.items():
            writers[form_name].add(name, gemm)
    for writer in writers.values():
        writer.close()
    found = read_plans(tmp_path, scheme)
    assert {name: list(formats) for name, formats in found.items()} == {n: list(each) for n, each in made.items()}
    for name, formats in made.items():
        for form_name, gemm in formats.items():
            _assert_same(found[name][form_name], gemm)
    halves = {form.name for form in scheme.tokens if form.weights in (INT4, FP4)}
    sizes = {name: (tmp_path / f"{name}.{CODES}").stat().st_size for name in halves}
    half = (shape[0] * shape[1] + 1) // 2
    assert all(size == (half + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT + half for size in sizes.values())


def _assert_same(found: QuantizedGemm, gemm: QuantizedGemm) -> None:
    assert isinstance(found.codes, StoredValues) and isinstance(gemm.codes, np.ndarray)
    loaded = found.codes.load()
    assert loaded.dtype == gemm.codes.dtype and format_of(found.codes) is format_of(gemm.codes)
    np.testing.assert_array_equal(loaded.astype(np.float32), gemm.codes.astype(np.float32))
    assert int({entry.key: entry.value for entry in found.codes.tensor.external_data}["offset"]) % ALIGNMENT == 0
    np.testing.assert_array_equal(found.weight_steps, gemm.weight_steps)
    steps = found.product_steps, gemm.product_steps
    for ours, theirs in ((found.bias_shift, gemm.bias_shift), steps, _factors(found, gemm)):
        assert (ours is None) == (theirs is None)
        np.testing.assert_array_equal(ours, theirs)  # type: ignore[arg-type]
    assert found.unit == gemm.unit and (found.branch is None) == (gemm.branch is None)
    for one, other in zip(found.branch or (), gemm.branch or (), strict=True):
        np.testing.assert_array_equal(one, other)
    assert (found.activation is None) == (gemm.activation is None)
    if found.activation is not None and gemm.activation is not None:
        one, other = found.activation, gemm.activation
        assert (one.step, one.rows, one.format) == (other.step, other.rows, other.format)


def _factors(*gemms: QuantizedGemm) -> tuple[np.ndarray | None, ...]:
    return tuple(None if gemm.activation is None else gemm.activation.row_factors for gemm in gemms)
