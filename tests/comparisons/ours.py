"""Our INT8 with any recipe: statistics are measured once, and serve all of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from calibration.collect import Call, new_stats, observe
from calibration.methods import Recipe
from calibration.plan import activation_groups, fold_choices, graph_activations, quantised_gemms
from calibration.policy import select
from calibration.stats import ActivationStats
from dsr_export.backends.onnxruntime import OnnxRuntimeRunner
from dsr_export.int8.measure import register_rows, token_places
from graphs.artifacts import OptimizedModel
from graphs.files import load_inferred_graph, save_graph
from graphs.observe.probes import add_outputs
from graphs.quantize.code_forms import form_codes
from graphs.quantize.gemms import quantize_gemms
from graphs.quantize.schemes import SCHEMES, Scheme
from tests.comparisons.models import Graph


def measure(graph: Graph, calls: list[Call]) -> dict[str, ActivationStats]:
    """Statistics of every activation, with all that any recipe needs."""
    selection = select(load_inferred_graph(graph.path), (), graph.card.outer_modules)
    known = token_places(graph.card)
    stats = new_stats(selection, register_rows(graph.card, selection), hessians=True, places=known)
    names = list(graph_activations(selection))
    tapped = add_outputs(OptimizedModel(path=graph.path), graph.path.with_name("tapped.onnx"), names)
    with OnnxRuntimeRunner(tapped, inputs=graph.card.inputs) as runner:
        for call in calls:
            observe(stats, runner.infer(call.inputs), call)
    return stats


def quantised(
    graph: Graph,
    stats: Mapping[str, ActivationStats],
    recipe: Recipe,
    path: Path,
    scheme: Scheme = SCHEMES["int8"],
) -> Path:
    """Every selected GEMM in codes, none kept for a budget; FP32 in between, as ONNX Runtime's form has it."""
    model = load_inferred_graph(graph.path)
    selection = select(model, (), graph.card.outer_modules)
    groups = activation_groups(selection)
    chosen = fold_choices(groups, stats, recipe, {}, lambda done, total: None, normed=selection.normed, scheme=scheme)
    planned = list(quantised_gemms(groups, selection, stats, chosen, recipe, scheme))
    plan = {each.gemm.name: each.quantized for each in reversed(planned)}  # the first format of each
    quantize_gemms(model, plan)
    model = load_inferred_graph(save_graph(model, path))
    form_codes(model, for_engines=False)
    return save_graph(model, path)
