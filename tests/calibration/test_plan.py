"""From statistics to a plan: what reads one activation is planned together, and folding changes no product."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
import pytest

from calibration import product_steps
from calibration.methods import METHODS, OUTLIER_AWARE
from calibration.plan import Chosen, activation_groups, fold_choices, graph_activations, quantised_gemms
from calibration.policy import Selection, select
from calibration.seen_products import SeenProducts
from calibration.stats import ActivationStats
from calibration.token_roles import RegisterRows
from calibration.weight_codes import stored_weight
from graphs.precisions import Precision
from graphs.quantize.formats import INT8
from graphs.quantize.schemes import SCHEMES
from tests.calibration.small_graph import TOKENS, WIDTH, small_graph, small_model

LOUD = 5


def _inputs(images: int = 8) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        "x": rng.standard_normal((images, TOKENS, WIDTH)).astype(np.float32),
        "t": rng.standard_normal((images, WIDTH)).astype(np.float32),
    }


def _seen(name: str, tokens: int = TOKENS) -> ActivationStats:
    """One channel is 50 times as loud as the others."""
    x = np.random.default_rng(0).standard_normal((16, tokens, WIDTH)).astype(np.float32)
    x[..., LOUD] *= 50
    stats = ActivationStats(name, WIDTH, tokens, RegisterRows(count=0, patches=tokens))
    stats.observe(x, np.arange(16), np.arange(16) % 4, np.ones(16))
    return stats


def _said(*_: int) -> None: ...


def _run(model: onnx.ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, _inputs())[0])


def _selected(graph: gs.Graph) -> Selection:
    return select(graph, ())


def test_what_reads_one_activation_is_one_group(tmp_path: Path) -> None:
    chosen = _selected(small_graph(tmp_path))
    assert [[gemm.name for gemm in group] for group in activation_groups(chosen)] == [["attn.q", "attn.k"]]
    assert set(graph_activations(chosen)) == {"h", "t", "c"}


def test_folded_factors_even_out_the_loud_channel_and_change_no_product(tmp_path: Path) -> None:
    graph = small_graph(tmp_path)
    groups = activation_groups(_selected(graph))
    before = [stored_weight(gemm) for gemm in groups[0]]
    chosen = fold_choices(groups, {"h": _seen("h")}, OUTLIER_AWARE, {}, _said)
    (choice,) = chosen["h"].choices
    assert choice.factors[LOUD] == choice.factors.max() > 3
    for gemm, weight in zip(groups[0], before, strict=True):
        np.testing.assert_allclose(stored_weight(gemm), weight * choice.factors[:, None], rtol=1e-6)
    np.testing.assert_allclose(_run(gs.export_onnx(graph)), _run(small_model()), rtol=1e-4, atol=1e-5)


def test_an_activation_that_another_node_reads_is_not_folded(tmp_path: Path) -> None:
    """It would be divided for that node as well."""
    graph = small_graph(tmp_path)
    tensor = graph.tensors()["h"]
    graph.nodes.append(gs.Node("Relu", "other/Relu", inputs=[tensor], outputs=[gs.Variable("other", np.float32)]))
    groups = activation_groups(_selected(graph))
    (choice,) = fold_choices(groups, {"h": _seen("h")}, OUTLIER_AWARE, {}, _said)["h"].choices
    assert not choice.smooths


def test_a_choice_that_is_given_is_taken_without_statistics(tmp_path: Path) -> None:
    groups = activation_groups(_selected(small_graph(tmp_path)))
    (first,) = fold_choices(groups, {"h": _seen("h")}, METHODS["minmax"], {}, _said)["h"].choices
    given = dataclasses.replace(first, activation=dataclasses.replace(first.activation, step=0.125))
    again = fold_choices(groups, {}, METHODS["minmax"], {"h": (given,)}, _said)
    assert again == {"h": Chosen((given,), 0.0)}


@pytest.mark.parametrize("method", ["minmax", "outlier-aware"])
def test_codes_stand_for_the_weights_and_conditions_have_no_range(method: str, tmp_path: Path) -> None:
    graph = small_graph(tmp_path)
    selection = _selected(graph)
    groups, stats = activation_groups(selection), {"h": _seen("h")}
    chosen = fold_choices(groups, stats, METHODS[method], {}, _said)
    plans = list(quantised_gemms(groups, selection, stats, chosen, METHODS[method]))
    assert [each.gemm.name for each in plans] == ["attn.q", "attn.k", "time.first", "time.second"]
    for each in plans:
        made, weight = each.quantized.codes * each.quantized.weight_steps, stored_weight(each.gemm)
        assert np.linalg.norm(made - weight) < 0.1 * np.linalg.norm(weight)
        if method == "minmax" or each.choice is None:  # each to the nearest; else they make up for each other's errors
            assert (np.abs(made - weight) <= 0.501 * each.quantized.weight_steps).all()
        assert np.abs(each.quantized.codes.astype(int)).max() == int(INT8.largest)
        assert (each.quantized.activation is None) is (each.choice is None)
        assert (each.quantized.bias_shift is None) is (method == "minmax" or each.choice is None)


@pytest.mark.parametrize("seen", [False, True])
def test_products_of_gemms_that_share_codes_have_steps_in_one_proportion(
    seen: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine merges such GEMMs, and then has one factor for all of them. Without whole calls they stay floats."""
    monkeypatch.setattr(product_steps, "MARGIN_DB", 20)
    graph = small_graph(tmp_path)
    selection, recipe = _selected(graph), OUTLIER_AWARE
    groups = activation_groups(selection)
    quiet = np.random.default_rng(2).laplace(size=(64, TOKENS, WIDTH)).astype(np.float32)
    stats = ActivationStats("h", WIDTH, TOKENS, RegisterRows(count=0, patches=TOKENS))
    stats.observe(quiet, np.arange(64), np.arange(64) % 4, np.ones(64))
    chosen = fold_choices(groups, {"h": stats}, recipe, {}, _said)
    products = SeenProducts(groups, {"h": stats}, chosen, SCHEMES["int8"])
    if seen:
        products.observe({"h": quiet[:2]}, 2)
    plans = quantised_gemms(groups, selection, {"h": stats}, chosen, recipe, seen_products=products.largest)
    planned = [each.quantized for each in plans]
    tokens = [each for each in planned if each.activation is not None]
    assert [each.product_steps is None for each in tokens] == [not seen] * 2
    proportions = [each.product_steps / each.weight_steps for each in tokens if each.product_steps is not None]
    assert all(np.allclose(each, proportions[0][0], rtol=1e-6) for each in proportions)
    assert all(each.product_steps is None for each in planned if each.activation is None)


def test_seen_products_are_those_of_all_tokens_of_all_calls(tmp_path: Path) -> None:
    graph = small_graph(tmp_path)
    groups = activation_groups(_selected(graph))
    stats = {"h": _seen("h")}
    chosen = fold_choices(groups, stats, OUTLIER_AWARE, {}, _said)
    x = np.random.default_rng(3).standard_normal((3, TOKENS, WIDTH)).astype(np.float32)
    x[2, 1] *= stats["h"].row_largest.max() / np.abs(x).max()  # as large as any that was seen
    products = SeenProducts(groups, stats, chosen, SCHEMES["int8"])
    for call in (x[:1], x[1:]):
        products.observe({"h": call}, len(call))
    (choice,) = chosen["h"].choices
    weight = np.concatenate([stored_weight(gemm) for gemm in groups[0]], axis=1)
    rows = x.reshape(-1, WIDTH) / choice.factors
    if choice.activation.rows == "dynamic":
        rows /= np.abs(rows).max(axis=1, keepdims=True)
    wanted = np.abs(rows @ weight).max(axis=0)
    assert list(products.largest) == [("h", "int8")]
    np.testing.assert_allclose(products.largest["h", "int8"], wanted, atol=0.03 * wanted.max())


@pytest.mark.parametrize(("precision", "looked_at"), [("fp8", ["fp8", "int8"]), ("nvfp4-weights", ["fp8", "int8"])])
def test_formats_without_products_of_codes_are_not_looked_at(
    precision: Precision, looked_at: list[str], tmp_path: Path
) -> None:
    groups = activation_groups(_selected(small_graph(tmp_path)))
    stats = {"h": _seen("h")}
    chosen = fold_choices(groups, stats, OUTLIER_AWARE, {}, _said, scheme=SCHEMES[precision])
    products = SeenProducts(groups, stats, chosen, SCHEMES[precision])
    products.observe({"h": np.ones((2, TOKENS, WIDTH), np.float32)}, 2)
    assert list(products.largest) == [("h", form) for form in looked_at]
