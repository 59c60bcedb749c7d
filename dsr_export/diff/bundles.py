"""Two bundles, A and B, compared as a whole: one JSON value. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dsr_export.bundle.reader import ENGINE_MODEL, MODEL, RUNTIME_MODEL, STEP, Bundle
from dsr_export.bundle.signature_file import PublicKey
from dsr_export.diff.fields import differing
from dsr_export.diff.figures import (
    check_difference,
    engine_difference,
    parity_difference,
    stage_difference,
    step_engine_difference,
)
from dsr_export.diff.graph import graph_difference
from dsr_export.diff.outputs import output_difference
from dsr_export.diff.verdict import MARGIN_DB, floor_db, regressions
from dsr_export.diff.weights import WeightFile, weight_difference
from dsr_export.progress import Reporter, Silent
from graphs.files import load_model

FIELDS = ("name", "model", "dsr", "precision", "inputs", "outputs", "batch", "sampler", "tolerances", "tools")
MORE_FIELDS = ("provenance", "range_audit")


def diff_bundles(
    a: Path,
    b: Path,
    *,
    margin_db: float = MARGIN_DB,
    reporter: Reporter | None = None,
    trust: Sequence[PublicKey] = (),
) -> dict[str, Any]:
    """How B differs from A; `regressions` says in words what makes it worse, see `verdict.regressions`.

    Raises:
        ExportError: one of them is no bundle, or was altered; or was signed by none of `trust`, where that is given.
    """
    say = reporter or Silent()
    with say.stage("hashes"):
        left, right = Bundle.open(a, trust=trust), Bundle.open(b, trust=trust)
    found = _difference(left, right, margin_db, say, "")
    floor = floor_db(left.manifest, right.manifest)
    return {"a": str(a), "b": str(b), "margin_db": margin_db, "floor_db": floor, **found}


def _difference(a: Bundle, b: Bundle, margin_db: float, say: Reporter, prefix: str) -> dict[str, Any]:
    if a.manifest.digest == b.manifest.digest:  # it stands for every byte
        return {"identical": True, "regressions": [], "components": {}}
    facts = {**_told(a, b), **_graphs(a, b, say, prefix)}
    with say.stage(f"{prefix}outputs") as bar:
        facts["outputs"] = output_difference(a, b, bar)
    common = [role for role in a.components if role in b.components]
    components = {
        role: _difference(a.components[role], b.components[role], margin_db, say, f"{role}/") for role in common
    }
    worse = regressions(a.manifest, b.manifest, facts, margin_db)
    worse += [f"{role}: {text}" for role, part in components.items() for text in part["regressions"]]
    return {"identical": False, "regressions": worse, **facts, "components": components}


def _told(a: Bundle, b: Bundle) -> dict[str, Any]:
    """What manifests and reports say."""
    manifests = [each.manifest.as_dict() for each in (a, b)]
    said = [{key: manifest[key] for key in (*FIELDS, *MORE_FIELDS)} for manifest in manifests]
    for own, manifest in zip(said, manifests, strict=True):  # by name, and their facts apart
        own["targets"] = {each["name"]: _described(each) for each in manifest["targets"]}
    reports = [each.report() for each in (a, b)]
    parity, checks, stages = ([report.get(key, []) for report in reports] for key in ("parity", "checks", "stages"))
    return {
        "manifest": differing(*said),
        "parity": parity_difference(*parity),
        "checks": check_difference(*checks),
        "engines": engine_difference(a, b),
        "step_engines": step_engine_difference(a, b),
        "stages": stage_difference(*stages),
    }


def _described(target: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in target.items() if key != "facts"}


def _graphs(a: Bundle, b: Bundle, say: Reporter, prefix: str) -> dict[str, Any]:
    """`model.onnx` on both sides and, where one side has another for its engines, what both build engines from.

    Of the form that ONNX Runtime runs best, and of graphs that hold a whole step of the sampler, each that a side has.
    """
    with say.stage(f"{prefix}graphs"):
        found, engine = _graph(_held(a, MODEL), _held(b, MODEL)), None
        if ENGINE_MODEL in (a.engine_graph, b.engine_graph):
            engine = _graph_of_files(_held(a, a.engine_graph), _held(b, b.engine_graph))
        places = dict.fromkeys(name for each in (a, b) for name in each.graphs if name.startswith(STEP))
        steps = {place: _further_graph(a, b, place) for place in places}
        runtime = _further_graph(a, b, RUNTIME_MODEL) if RUNTIME_MODEL in (*a.graphs, *b.graphs) else None
        return {**found, "engine_graph": engine, "runtime_graph": runtime, "step_graphs": steps}


def _further_graph(a: Bundle, b: Bundle, place: str) -> dict[str, Any]:
    lacking = [side for side, each in (("a", a), ("b", b)) if place not in each.graphs]
    found = {} if lacking else _graph_of_files(_held(a, place), _held(b, place))
    return {"lacking": lacking, **found}


def _graph_of_files(a: WeightFile, b: WeightFile) -> dict[str, Any]:
    files = {side: {name: each.sha256 for name, each in held.files.items()} for side, held in (("a", a), ("b", b))}
    return {"files": files, **_graph(a, b)}


def _graph(a: WeightFile, b: WeightFile) -> dict[str, Any]:
    return {"graph": graph_difference(a.model, b.model), "weights": weight_difference(a, b)}


def _held(bundle: Bundle, graph: str) -> WeightFile:
    """A graph of the bundle with its data files, which lie beside it and go by their names there."""
    path, inside = bundle.file(graph), graph[: graph.rfind("/") + 1]
    listed = {
        name.removeprefix(inside): entry for name, entry in bundle.manifest.files.items() if name.startswith(graph)
    }
    return WeightFile(load_model(path, weights=False), path.parent, listed)
