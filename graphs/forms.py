"""The form of a graph that each family of targets runs best.

One canonical graph is traced, lowered, optimised and calibrated. What is best for ONNX Runtime's CPU kernels is not
best for an engine: each form is an ordered tuple of rewrites, and what its types are between integer GEMMs.

ONNX Runtime gets two graphs over the same weights: a portable one in standard operators, and beside it the one that it
runs, with operators of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx_graphsurgeon as gs

from graphs.artifacts import TypedModel
from graphs.files import RUNTIME_GRAPH, load_graph, load_inferred_graph, save_graph
from graphs.rewrite import Rewrite, RewriteReport, run
from graphs.rewrites.engine import ENGINE_REWRITES
from graphs.rewrites.runtime import RUNTIME_GAINS, RUNTIME_REWRITES
from graphs.targets import Target

FormName = Literal["onnxruntime", "engine"]


@dataclass(frozen=True, kw_only=True)
class Form:
    """What a family of targets is given.

    `rewrites` run over the typed graph, in their order. `narrow_products` says that integer GEMMs hand on tensors of
    the type around them: an engine then moves half the bytes, and ONNX Runtime has no integer kernel any more. `beside`
    makes a second graph of the result, which stays as it is.
    """

    rewrites: tuple[Rewrite, ...]
    narrow_products: bool
    beside: tuple[Rewrite, ...] = ()


FORMS: Mapping[FormName, Form] = {
    "onnxruntime": Form(rewrites=(), narrow_products=False, beside=RUNTIME_REWRITES),
    "engine": Form(rewrites=ENGINE_REWRITES, narrow_products=True),
}


def form_of(target: Target) -> FormName:
    """What engines of that target are built from, or ONNX Runtime runs."""
    return "onnxruntime" if target.backend == "onnxruntime" else "engine"


def take_form(typed: TypedModel, path: Path, form: FormName) -> list[RewriteReport]:
    """Writes the typed graph, in that form, to `path`; and what ONNX Runtime runs in its place beside it."""
    graph = load_inferred_graph(typed.path)
    reports = [run(graph, rewrite) for rewrite in FORMS[form].rewrites]
    return [*reports, *save_forms(graph, path, form)]


def save_forms(graph: gs.Graph, path: Path, form: FormName) -> list[RewriteReport]:
    """Writes what ships to `path`, and beside it, over the same weights, what `form` has beside it where that is
    another graph."""
    rewrites = FORMS[form].beside
    if not rewrites:
        save_graph(graph, path, ships=True)
        return []
    save_graph(graph, path)
    own = load_inferred_graph(path)
    reports = [run(own, rewrite) for rewrite in rewrites]
    if any(report.count for report in reports if report.name in RUNTIME_GAINS):
        save_graph(own, path.with_name(RUNTIME_GRAPH))
    else:
        save_graph(load_graph(path), path, ships=True)
    return reports
