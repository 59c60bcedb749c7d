from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsr_export.diagnosis.neurons import Neuron, NeuronScores, image_score, merged, table_of

Array = npt.NDArray[np.float64]
tables = st.dictionaries(
    st.integers(0, 5), st.lists(st.integers(0, 9), max_size=4).map(lambda i: tuple(sorted(set(i))))
)


def image(rng: np.random.Generator, *, tokens: int = 12, hidden: int = 5) -> tuple[Array, dict[int, Array]]:
    """Outliers at two tokens; layer 0 and 2 with small activations."""
    outliers = np.zeros(tokens, bool)
    outliers[rng.choice(tokens, 2, replace=False)] = True
    return outliers, {layer: rng.uniform(-0.4, 0.4, (tokens, hidden)) for layer in (0, 2)}


def test_the_score_is_the_mean_size_over_outlier_tokens() -> None:
    outliers = np.array([True, False, True, False, False])
    activations = np.array([[4.0, -6.0], [0.1, 0.2], [2.0, 2.0], [0.0, 0.1], [0.2, 0.3]])
    np.testing.assert_allclose(image_score(outliers, activations), [3.0, 4.0])


def test_a_neuron_that_is_loud_on_most_tokens_does_not_count() -> None:
    outliers = np.array([True, False, False, False])
    loud = np.array([[9.0], [-0.6], [0.6], [0.1]])
    half = np.array([[9.0], [-0.6], [0.4], [0.1]])
    assert image_score(outliers, loud).tolist() == [0.0]
    assert image_score(outliers, half).tolist() == [9.0]


def test_planted_neurons_come_first_and_nothing_else_with_them() -> None:
    rng, scores = np.random.default_rng(0), NeuronScores()
    for _ in range(7):
        outliers, activations = image(rng)
        activations[0][outliers, 3], activations[2][outliers, 1] = 5.0, -8.0
        scores.add(outliers, activations)
    best = scores.best(2, highest_layer=2)
    assert [(n.layer, n.index) for n in best] == [(2, 1), (0, 3)]
    assert [n.score for n in best] == pytest.approx([8.0, 5.0])


def test_layers_above_the_highest_are_left_out() -> None:
    scores = NeuronScores()
    scores.add(*image(np.random.default_rng(0)))
    assert {n.layer for n in scores.best(10, highest_layer=1)} == {0}
    assert scores.best(10, highest_layer=-1) == ()


def test_no_more_than_asked_for_and_no_silent_ones() -> None:
    scores = NeuronScores()
    outliers = np.array([True, False, False])
    scores.add(outliers, {0: np.array([[1.0, 0.0, 2.0], [0, 0, 0], [0, 0, 0]])})
    assert table_of(scores.best(1, highest_layer=0)) == {0: (2,)}
    assert table_of(scores.best(9, highest_layer=0)) == {0: (0, 2)}


def test_images_without_outliers_change_nothing() -> None:
    first, second = NeuronScores(), NeuronScores()
    rng = np.random.default_rng(0)
    outliers, activations = image(rng)
    quiet = np.zeros_like(outliers), image(rng)[1]
    first.add(outliers, activations)
    for each in (quiet, (outliers, activations), quiet):
        second.add(*each)
    assert first.best(10, highest_layer=9) == second.best(10, highest_layer=9)
    assert NeuronScores().best(3, highest_layer=9) == ()


@given(st.permutations(range(5)))
def test_the_order_of_images_does_not_matter(order: list[int]) -> None:
    rng = np.random.default_rng(0)
    images = [image(rng) for _ in order]
    straight, shuffled = NeuronScores(), NeuronScores()
    for i, j in enumerate(order):
        straight.add(*images[i])
        shuffled.add(*images[j])
    wanted, made = (scores.best(10, highest_layer=9) for scores in (straight, shuffled))
    assert [(n.layer, n.index) for n in wanted] == [(n.layer, n.index) for n in made]
    assert [n.score for n in wanted] == pytest.approx([n.score for n in made])


@given(st.integers(0, 1000))
def test_repeating_every_image_changes_no_score(seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = [image(rng) for _ in range(3)]
    once, twice = NeuronScores(), NeuronScores()
    for each in images:
        once.add(*each)
    for each in images * 2:
        twice.add(*each)
    first, second = (s.best(4, highest_layer=9) for s in (once, twice))
    assert [n.score for n in first] == pytest.approx([n.score for n in second])


def test_ties_go_to_the_lower_layer_and_index() -> None:
    scores = NeuronScores()
    level = np.array([[2.0, 2.0], [0.0, 0.0], [0.0, 0.0]])
    scores.add(np.array([True, False, False]), {3: level, 1: level})
    assert [(n.layer, n.index) for n in scores.best(3, highest_layer=9)] == [(1, 0), (1, 1), (3, 0)]


@given(tables, tables, tables)
def test_merging_is_a_union(
    a: dict[int, tuple[int, ...]], b: dict[int, tuple[int, ...]], c: dict[int, tuple[int, ...]]
) -> None:
    assert merged(a, b) == merged(b, a)
    assert merged(a, merged(b, c)) == merged(merged(a, b), c)
    assert merged(a, a) == a == merged(a, {})
    assert list(merged(a, b)) == sorted(set(a) | set(b))
    for layer, neurons in merged(a, b).items():
        assert neurons == tuple(sorted(set(a.get(layer, ())) | set(b.get(layer, ()))))


def test_a_table_is_sorted_and_names_each_neuron_once() -> None:
    neurons = [Neuron(2, 7, 3.0), Neuron(0, 4, 2.0), Neuron(2, 1, 1.0), Neuron(2, 7, 0.5)]
    assert table_of(neurons) == {0: (4,), 2: (1, 7)}
    assert list(table_of(neurons)) == [0, 2]
