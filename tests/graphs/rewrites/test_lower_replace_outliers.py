"""The lowered replacement against the PyTorch loop that defines it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from dsr_export.register_ops.replacement import replace_outliers
from graphs.errors import ExportError
from graphs.lowering import lower
from graphs.rewrites.lower_replace_outliers import successors
from graphs.stage_specs import DATA_DEPENDENT
from tests.graphs.symbolic import lowered, operators, replace_outliers_model, session

RULES = [("absolute", 6.0), ("median", 2.0), ("sigma", 1.5)]
DIM = 16


def _registers(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.standard_normal((count, DIM)).astype(np.float32)


def _attributes(rule: str, threshold: float, **other: Any) -> dict[str, Any]:
    return {"rule": rule, "threshold": threshold, "rounds": 2, "choice": "nearest", **other}


def _loop(
    x: np.ndarray, registers: np.ndarray, *gate: np.ndarray, exclude: tuple[int, ...] = (), **a: Any
) -> np.ndarray:
    weights = [torch.from_numpy(g) for g in gate] or [None] * 3
    values = (a["rule"], a["threshold"], a["rounds"], a["choice"], list(exclude))
    return replace_outliers(torch.from_numpy(x), torch.from_numpy(registers), *weights, *values).numpy()


def adversarial_inputs(rng: np.random.Generator, tokens: int, registers: np.ndarray) -> Iterator[np.ndarray]:
    """Random tokens, then the cases that break naive forms, each [1, tokens, D]."""
    dim = registers.shape[1]
    x = rng.standard_normal((1, tokens, dim)).astype(np.float32)
    hot = x.copy()
    hot[:, rng.integers(tokens)] *= rng.uniform(5, 500)
    spoilt = hot.copy()
    spoilt[0, rng.integers(tokens), rng.integers(dim)] = rng.choice([np.nan, np.inf, -np.inf])
    huge = x.copy()
    huge[:, rng.integers(tokens)] = 3e37
    ties = np.ones_like(x)
    ties[:, rng.integers(tokens)] = 40 * (registers[0] + registers[-1])
    yield from (x, x * 1e-3, x * 100, hot, spoilt, huge, ties, np.full_like(x, np.nan), np.zeros_like(x))
    yield np.repeat(registers[:1, None], tokens, axis=1) * np.float32(3)


@pytest.mark.parametrize(("rule", "threshold"), RULES)
@pytest.mark.parametrize("tokens", [1, 2, 33])
def test_decisions_and_values_match_the_loop_bit_for_bit(
    rule: str, threshold: float, tokens: int, tmp_path: Path, rng: np.random.Generator
) -> None:
    """Nine configurations of 120 inputs each: over a thousand, and every one must agree exactly."""
    registers = _registers(rng, 4)
    attributes = _attributes(rule, threshold)
    run = session(lowered(replace_outliers_model(tokens, registers, **attributes), tmp_path)[0])
    replaced = 0
    for _ in range(12):
        for x in adversarial_inputs(rng, tokens, registers):
            expected = _loop(x, registers, **attributes)
            got = run.run(None, {"x": x})[0]
            np.testing.assert_array_equal(got, expected)
            replaced += int((expected != x).any(axis=-1).sum())
    assert replaced > 0


@pytest.mark.parametrize("choice", ["mask", "clip"])
@pytest.mark.parametrize(("rule", "threshold"), RULES)
def test_baselines_match_the_loop(
    choice: str, rule: str, threshold: float, tmp_path: Path, rng: np.random.Generator
) -> None:
    registers, attributes = _registers(rng, 1), _attributes(rule, threshold, choice=choice)
    run = session(lowered(replace_outliers_model(9, registers, **attributes), tmp_path)[0])
    for x in adversarial_inputs(rng, 9, registers):
        np.testing.assert_allclose(run.run(None, {"x": x})[0], _loop(x, registers, **attributes), rtol=2e-6)


@pytest.mark.parametrize(("rule", "threshold"), RULES)
def test_gate_matches_the_loop(rule: str, threshold: float, tmp_path: Path, rng: np.random.Generator) -> None:
    registers, attributes = _registers(rng, 3), _attributes(rule, threshold, choice="gate")
    gate = [rng.standard_normal(shape).astype(np.float32) for shape in ((DIM, 3), (DIM, 1), (1,))]
    run = session(lowered(replace_outliers_model(9, registers, *gate, **attributes), tmp_path)[0])
    for x in list(adversarial_inputs(rng, 9, registers))[:5]:
        np.testing.assert_allclose(
            run.run(None, {"x": x})[0], _loop(x, registers, *gate, **attributes), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("exclude", [(0, 1), (8,), (2, 5)])
def test_excluded_rows_are_neither_counted_nor_replaced(
    exclude: tuple[int, ...], tmp_path: Path, rng: np.random.Generator
) -> None:
    registers, attributes = _registers(rng, 2), _attributes("median", 2.0)
    run = session(lowered(replace_outliers_model(9, registers, exclude=exclude, **attributes), tmp_path)[0])
    x = rng.standard_normal((2, 9, DIM)).astype(np.float32)
    x[:, list(exclude)] *= 100
    x[1, 4] *= 50
    got = run.run(None, {"x": x})[0]
    np.testing.assert_array_equal(got, _loop(x, registers, exclude=exclude, **attributes))
    np.testing.assert_array_equal(got[:, list(exclude)], x[:, list(exclude)])
    assert (got[1, 4] != x[1, 4]).any()


def test_an_image_without_outliers_passes_bit_identically(tmp_path: Path, rng: np.random.Generator) -> None:
    registers = _registers(rng, 2)
    run = session(lowered(replace_outliers_model(9, registers, **_attributes("median", 50.0)), tmp_path)[0])
    x = rng.standard_normal((3, 9, DIM)).astype(np.float32)
    assert run.run(None, {"x": x})[0].tobytes() == x.tobytes()


def test_a_second_round_replaces_what_the_first_uncovers(tmp_path: Path) -> None:
    """One huge token inflates the deviation and hides a smaller outlier until it has been replaced."""
    registers = np.eye(DIM, dtype=np.float32)[:2]
    x = np.ones((1, 20, DIM), np.float32) / 4  # every norm is 1
    x[0, 3], x[0, 7] = x[0, 3] * 1e4, x[0, 7] * 100
    outputs = {}
    for rounds in (1, 2):
        attributes = _attributes("sigma", 3.0, rounds=rounds)
        run = session(lowered(replace_outliers_model(20, registers, **attributes), tmp_path)[0])
        outputs[rounds] = run.run(None, {"x": x})[0]
        np.testing.assert_array_equal(outputs[rounds], _loop(x, registers, **attributes))
    assert np.linalg.norm(outputs[1][0, 7]) == pytest.approx(100)
    assert np.linalg.norm(outputs[2][0, 7]) == pytest.approx(1)


def test_absolute_rule_collapses_to_one_round(tmp_path: Path, rng: np.random.Generator) -> None:
    model = replace_outliers_model(9, _registers(rng, 3), **_attributes("absolute", 6.0, rounds=5))
    assert operators(lowered(model, tmp_path)[0]).count("LessOrEqual") == 2  # one threshold test, one for finiteness


@pytest.mark.parametrize("choice", ["nearest", "mask", "clip"])
@pytest.mark.parametrize("rule", [rule for rule, _ in RULES])
def test_only_static_standard_ops_remain(choice: str, rule: str, tmp_path: Path, rng: np.random.Generator) -> None:
    model = replace_outliers_model(9, _registers(rng, 3), **_attributes(rule, 2.0, choice=choice, rounds=3))
    graph = onnx.load(lowered(model, tmp_path)[0].path)
    assert not {node.op_type for node in graph.graph.node} & DATA_DEPENDENT
    assert {node.domain for node in graph.graph.node} == {""}
    onnx.checker.check_model(graph, full_check=True)


def test_collinear_registers_take_the_lowest_index() -> None:
    rows = np.array([[1, 0], [0, 1], [2, 0], [0, 3]], np.float32)
    assert successors(rows).tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("twin", [1.0, 2.0])
def test_collinear_registers_match_the_loop(twin: float, tmp_path: Path, rng: np.random.Generator) -> None:
    """Twins by a power of two tie exactly in float32; any other factor leaves the choice to rounding."""
    base = _registers(rng, 2)
    registers = np.concatenate([base, base * np.float32(twin)])
    attributes = _attributes("sigma", 1.0, rounds=3)
    run = session(lowered(replace_outliers_model(9, registers, **attributes), tmp_path)[0])
    for x in adversarial_inputs(rng, 9, registers):
        np.testing.assert_allclose(run.run(None, {"x": x})[0], _loop(x, registers, **attributes), rtol=1e-6)


def test_a_median_beyond_topk_is_refused_with_its_reason(tmp_path: Path, rng: np.random.Generator) -> None:
    model = replace_outliers_model(7682, _registers(rng, 1), **_attributes("median", 2.0))
    with pytest.raises(ExportError, match=r"0 sites found where 1 are declared.*TopK > 3840"):
        lowered(model, tmp_path)


def test_a_dynamic_token_axis_is_refused_with_its_reason(tmp_path: Path, rng: np.random.Generator) -> None:
    model = replace_outliers_model(9, _registers(rng, 1), **_attributes("median", 2.0))
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "tokens"
    with pytest.raises(ExportError, match=r"blocks\.0/ReplaceOutliers: tokens need .* static N"):
        lowered(model, tmp_path)


def test_registers_that_are_inputs_are_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    model = replace_outliers_model(9, _registers(rng, 1), **_attributes("median", 2.0))
    del model.graph.initializer[:]
    model.graph.input.append(onnx.helper.make_tensor_value_info("registers", 1, [1, DIM]))
    with pytest.raises(ExportError, match="registers are not constant"):
        lowered(model, tmp_path)


def test_lowering_twice_finds_nothing_more(tmp_path: Path, rng: np.random.Generator) -> None:
    from graphs.artifacts import TracedModel

    first, _ = lowered(replace_outliers_model(9, _registers(rng, 2), **_attributes("median", 2.0)), tmp_path)
    again, reports = lower(TracedModel(path=first.path, sites={}), tmp_path / "again.onnx")
    assert [report.count for report in reports] == [0, 0]
    assert operators(again) == operators(first)
