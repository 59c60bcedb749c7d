"""The form of a graph that each family of targets runs best.

One canonical graph is traced, lowered, optimised and calibrated. What is best for ONNX Runtime's CPU kernels is not
best for an engine: each form is an ordered tuple of rewrites, and what its types are between integer GEMMs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from graphs.artifacts import TypedModel
from graphs.files import load_inferred_graph, save_graph
from graphs.rewrite import Rewrite, RewriteReport, run
from graphs.rewrites.engine import ENGINE_REWRITES
from graphs.targets import Target

FormName = Literal["onnxruntime", "engine"]


@dataclass(frozen=True, kw_only=True)
class Form:
    """What a family of targets is given.

    `rewrites` run over the typed graph, in their order. `narrow_products` says that integer GEMMs hand on tensors of
    the type around them: an engine then moves half the bytes, and ONNX Runtime has no integer kernel any more.
    """

    rewrites: tuple[Rewrite, ...]
    narrow_products: bool


FORMS: Mapping[FormName, Form] = {
    "onnxruntime": Form(rewrites=(), narrow_products=False),
    "engine": Form(rewrites=ENGINE_REWRITES, narrow_products=True),
}


def form_of(target: Target) -> FormName:
    """What engines of that target are built from, or ONNX Runtime runs."""
    return "onnxruntime" if target.backend == "onnxruntime" else "engine"


def take_form(typed: TypedModel, path: Path, form: FormName) -> list[RewriteReport]:
    """Writes the typed graph, in that form, to `path`."""
    rewrites = FORMS[form].rewrites
    graph = load_inferred_graph(typed.path)
    reports = [run(graph, rewrite) for rewrite in rewrites]
    save_graph(graph, path, ships=True)
    return reports
