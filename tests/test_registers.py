"""The DSR operators against numpy written from their definitions, and as nodes of a traced graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dsr_export.register_ops.neuron_shift import shift_register_neurons
from dsr_export.register_ops.replacement import replace_outliers
from dsr_export.registers import (
    DiffusionRegisters,
    RecursiveReplacement,
    TestTimeRegisters,
)
from tests import replacement_oracle as oracle
from tests.replacement_oracle import Array

RULES = ("absolute", "median", "sigma")
CHOICES = ("nearest", "gate", "mask", "clip")
NORMAL_VALUES = ("zero", "mean", "only_outliers", "same")


def _compare(x: Array, registers: Array, *, gate: oracle.Gate | None = None, **options: Any) -> Array:
    tensors = [None if gate is None else torch.from_numpy(gate[i]) for i in range(3)]
    named = {"rounds": 2, "exclude": (), **options}
    expected = oracle.replace(x, registers, gate=gate, **named)
    result: Tensor = replace_outliers(
        torch.from_numpy(x),
        torch.from_numpy(registers),
        *tensors,
        named["rule"],
        named["threshold"],
        named["rounds"],
        named["choice"],
        list(named["exclude"]),
    )
    largest = np.abs(x[np.isfinite(x) & (np.abs(x) < 1e20)], dtype=np.float64).max(initial=1.0)  # a gate may cancel it
    found: Array = result.numpy()
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6 * largest, equal_nan=True)
    return found


def _gate(rng: np.random.Generator, registers: int, dim: int) -> oracle.Gate:
    shapes = ((dim, registers), (dim, 1), (1,))
    first, second, third = (0.1 * rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    return first, second, third


def _normal_tokens(seed: int = 0, shape: tuple[int, ...] = (2, 8, 4)) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Array, Array, tuple[int, ...], oracle.Gate]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    batch, tokens, dim, count = (draw(st.integers(low, top)) for low, top in ((1, 3), (1, 7), (2, 6), (1, 4)))
    x = rng.integers(-4, 5, (batch, tokens, dim)).astype(np.float32)  # sums of squares are exact in float32
    x *= rng.choice([1, 1, 1, 4, 64], (batch, tokens, 1))
    special = draw(st.lists(st.sampled_from([np.nan, np.inf, -np.inf, 1e25]), max_size=2))
    for value in special:
        x[rng.integers(batch), rng.integers(tokens), rng.integers(dim)] = value
    registers = rng.integers(-4, 5, (count, dim)).astype(np.float32)
    exclude = tuple(sorted(draw(st.sets(st.integers(0, tokens - 1)))))
    return x, registers, exclude, _gate(rng, count, dim)


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=60, deadline=None)
@given(case=cases(), threshold=st.sampled_from([0.5, 1.0, 1.5, 4.0]), rounds=st.integers(1, 4))
def test_replacement_follows_its_definition(
    rule: str, choice: str, case: tuple[Array, Array, tuple[int, ...], oracle.Gate], threshold: float, rounds: int
) -> None:
    x, registers, exclude, gate = case
    used = gate if choice == "gate" else None
    options = {"rule": rule, "threshold": threshold, "rounds": rounds, "choice": choice, "exclude": exclude}
    try:
        found = _compare(x, registers, gate=used, **options)
    except oracle.TooClose:
        assume(False)
    rows = list(exclude)
    np.testing.assert_array_equal(found[:, rows], x[:, rows])


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("rule", RULES)
def test_no_outlier_passes_bit_identically(rule: str, choice: str) -> None:
    x = _normal_tokens()
    gate = _gate(np.random.default_rng(1), 3, 4) if choice == "gate" else None
    found = _compare(x, _normal_tokens(1, (3, 4)), gate=gate, rule=rule, threshold=1e3, choice=choice)
    assert found.tobytes() == x.tobytes()


def test_all_outliers_are_replaced() -> None:
    x, registers = 100 * _normal_tokens(), _normal_tokens(1, (3, 4))
    found = _compare(x, registers, rule="absolute", threshold=5.0, choice="nearest")
    assert {tuple(row) for row in found.reshape(-1, 4)} <= {tuple(row) for row in registers}


@pytest.mark.parametrize("dim", [1, 3, 16, 33, 128])
@pytest.mark.parametrize("count", [3, 5, 9, 36])
def test_ties_take_the_lowest_register(dim: int, count: int) -> None:
    row = np.abs(_normal_tokens(2, (1, dim))) + 0.1
    registers = (row * 2.0 ** np.arange(count)[:, None]).astype(np.float32)  # parallel, of different lengths
    x = np.repeat(row[None] * 1e4, 50, axis=1)
    found = replace_outliers(
        torch.from_numpy(x), torch.from_numpy(registers), None, None, None, "absolute", 1.0, 1, "nearest", []
    )
    np.testing.assert_array_equal(found.numpy(), np.broadcast_to(registers[0], x.shape))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30, 3e38])
def test_tokens_without_finite_norm_take_register_0(rule: str, bad: float) -> None:
    x, registers = _normal_tokens(), _normal_tokens(1, (3, 4))
    x[0, 5, 2] = bad
    found = _compare(x, registers, rule=rule, threshold=100.0, choice="nearest", rounds=1)
    np.testing.assert_array_equal(found[0, 5], registers[0])
    assert np.isfinite(found).all()


def test_a_norm_that_overflows_float16_but_not_float32_is_measured() -> None:
    x = torch.full((1, 3, 4), 1.0)
    x[0, 1] = 300.0  # x^2 overflows in half precision
    module = RecursiveReplacement(rule="median", threshold=4.0, registers=torch.ones(1, 4))
    assert torch.equal(module(x.half()), torch.ones(1, 3, 4).half())


def test_one_token_is_its_own_median() -> None:
    x = _normal_tokens(shape=(2, 1, 4))
    registers = _normal_tokens(1, (2, 4))
    assert _compare(x, registers, rule="median", threshold=1.0, choice="nearest").tobytes() == x.tobytes()
    assert _compare(x, registers, rule="median", threshold=0.5, choice="mask").any() == np.False_


def test_comparison_is_strict_and_median_is_the_lower_one() -> None:
    x = np.array([[[1.0], [2.0], [4.0], [8.0]]], np.float32)
    found = _compare(x, np.ones((1, 1), np.float32), rule="median", threshold=2.0, choice="mask", rounds=1)
    np.testing.assert_array_equal(found[0, :, 0], [1, 2, 4, 0])


def test_excluded_rows_are_neither_counted_nor_replaced() -> None:
    x = np.array([[[100.0], [100.0], [100.0], [1.0], [1.0], [5.0]]], np.float32)
    options: dict[str, Any] = {"rule": "median", "threshold": 2.0, "choice": "mask", "exclude": (0, 1, 2)}
    found = _compare(x, np.ones((1, 1), np.float32), **options)
    np.testing.assert_array_equal(found[0, :, 0], [100, 100, 100, 1, 1, 0])


@pytest.mark.parametrize("rule", RULES)
def test_everything_excluded_changes_nothing(rule: str) -> None:
    x = 100 * _normal_tokens()
    found = _compare(x, _normal_tokens(1, (3, 4)), rule=rule, threshold=0.1, choice="nearest", exclude=tuple(range(8)))
    assert found.tobytes() == x.tobytes()


def test_images_of_a_batch_do_not_meet() -> None:
    x = _normal_tokens(shape=(5, 9, 4)) * np.array([1, 50, 1, 3, 7], np.float32)[:, None, None]
    x[3, 4] *= 90
    module = RecursiveReplacement(rule="median", threshold=2.0, rounds=3, registers=torch.ones(2, 4))
    whole = module(torch.from_numpy(x))
    rows = [module(torch.from_numpy(x[i : i + 1])) for i in range(5)]
    assert torch.equal(whole, torch.cat(rows))


def test_choices_that_read_registers_refuse_to_go_without() -> None:
    with pytest.raises(ValueError, match="needs registers"):
        RecursiveReplacement(rule="median", threshold=2.0)(torch.ones(1, 3, 4))
    assert RecursiveReplacement(rule="median", threshold=2.0, choice="clip")(torch.ones(1, 3, 4)).shape == (1, 3, 4)


@pytest.mark.parametrize("mode", NORMAL_VALUES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_register_neurons_follow_their_definition(mode: str, data: st.DataObject) -> None:
    batch, tokens, width, registers = (data.draw(st.integers(1, top)) for top in (3, 9, 8, 3))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    a = rng.standard_normal((batch, tokens + registers, width)).astype(np.float32)
    neurons = data.draw(st.lists(st.integers(0, width - 1), min_size=1, max_size=10))  # with duplicates
    scale = [float(s) for s in rng.choice([0.5, 1.0, 2.0], registers)]
    module = TestTimeRegisters(neurons, registers=registers, scale=scale, normal_values=mode)  # type: ignore[arg-type]
    found = module(torch.from_numpy(a)).numpy()
    np.testing.assert_allclose(found, oracle.shift_neurons(a, neurons, registers, scale, mode), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found[:, 0], a[:, 0])


def test_signed_maximum_prefers_the_minimum_on_a_tie() -> None:
    a = torch.tensor([[[0.0], [3.0], [-3.0], [0.0]]])
    assert TestTimeRegisters([0])(a)[0, -1, 0] == -3.0


def test_test_time_registers_append_zeros_last_and_drop_them() -> None:
    tokens = torch.randn(2, 5, 3)
    module = TestTimeRegisters([1], registers=2)
    longer = module.append(tokens)
    assert longer.shape == (2, 7, 3) and not longer[:, 5:].any()
    assert torch.equal(module.drop(longer), tokens)


@pytest.mark.parametrize(
    "options", [{"neurons": []}, {"neurons": [1], "registers": 0}, {"neurons": [1], "scale": [1, 2]}]
)
def test_unusable_test_time_registers_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        TestTimeRegisters(**options)


def test_diffusion_registers_are_prepended_and_dropped() -> None:
    module, tokens = DiffusionRegisters(3, 4), torch.randn(2, 5, 4)
    longer = module(tokens)
    assert torch.equal(longer[1, :3], (module.register_tokens + module.register_pos_embed)[0])
    assert torch.equal(module.drop(longer, 3), tokens)


@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize("choice", CHOICES)
def test_replace_outliers_passes_opcheck(choice: str, contiguous: bool) -> None:
    x = torch.randn(2, 5, 4) if contiguous else torch.randn(2, 4, 5).transpose(1, 2)
    gate = (torch.randn(4, 3), torch.randn(4, 1), torch.randn(1)) if choice == "gate" else (None, None, None)
    torch.library.opcheck(replace_outliers, (x, torch.randn(3, 4), *gate, "median", 1.0, 2, choice, [0]))


@pytest.mark.parametrize("mode", NORMAL_VALUES)
def test_shift_register_neurons_passes_opcheck(mode: str) -> None:
    for a in (torch.randn(2, 5, 6), torch.randn(2, 6, 5).transpose(1, 2)):
        torch.library.opcheck(shift_register_neurons, (a, [0, 2, 2], 1, [1.0], mode))


class _BothOps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = RecursiveReplacement(rule="median", threshold=2.0, rounds=3, registers=torch.randn(2, 4))
        self.second = RecursiveReplacement(rule="sigma", threshold=1.0, choice="gate", gate_shape=(2, 4))
        self.third = TestTimeRegisters([0, 3])

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.ones(2, 4)
        return self.third.drop(self.third(self.third.append(self.second(self.first(x), rows))))


def test_each_site_is_one_node_of_the_exported_program() -> None:
    module = _BothOps().eval()
    batch = torch.export.Dim("batch", min=1, max=16)
    program = torch.export.export(module, (torch.randn(2, 5, 4),), dynamic_shapes=({0: batch},))
    targets = [node.target for node in program.graph.nodes if "dsr" in str(node.target)]
    replace, shift = torch.ops.dsr.replace_outliers.default, torch.ops.dsr.shift_register_neurons.default
    assert targets == [replace, replace, shift]
    x = torch.randn(7, 5, 4)
    assert torch.equal(program.module()(x), module(x))
