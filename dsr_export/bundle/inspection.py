"""What is in a bundle or an ONNX file, read without running or deserialising anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from dsr_export.bundle.reader import Bundle
from dsr_export.bundle.signature_file import PublicKey
from dsr_export.engine_schedule.plan_text import RTX_TAG, UnreadableSchedule
from dsr_export.engine_schedule.reader import read_schedule_file
from dsr_export.engine_schedule.summary import of_steps, schedule_summaries
from dsr_export.errors import ExportError
from dsr_export.readable import readable
from graphs.files import load_model
from graphs.foreign.opened import foreign_file
from graphs.foreign.soundness import check_sound
from graphs.names import is_lowered, site_of
from graphs.weights.element_types import typed_weights

OPTIONAL_KEYS = ("pipeline",)
MANIFEST_KEYS = ("model", "dsr", "precision", "targets", "batch", "inputs", "outputs", "provenance", "tools")


def inspect_bundle(path: Path, *, trust: Sequence[PublicKey] = ()) -> dict[str, Any]:
    """The manifest, the graph's summary and the recorded engine facts, of components too. No plan is deserialised.

    Raises:
        ExportError: a file was altered or is missing, or none of `trust` signed the bundle, where that is given.
    """
    bundle = Bundle.open(path, trust=trust)
    components = {role: _facts(component) for role, component in bundle.components.items()}
    files = bundle.manifest.as_dict()["files"]
    seal = {"manifest_digest": bundle.manifest.digest, "signature": _signature(bundle, trusted=bool(trust))}
    return {"bundle": readable(str(path)), **seal, **_facts(bundle), "files": files, "components": components}


def _signature(bundle: Bundle, *, trusted: bool) -> dict[str, Any] | None:
    """Who signed; without a key to trust that is what the signature says, and nothing that was checked."""
    if bundle.signature is None:
        return None
    return {"key": bundle.signature.key.fingerprint, "checked": trusted}


def _facts(bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest.as_dict()
    graph = graph_summary(load_model(bundle.file("model.onnx"), weights=False))
    report = bundle.report()
    told = {"passed": bundle.passed_when_built(), "schedules": schedule_summaries(report)}
    if bundle.step_graph is not None:
        told["step_schedules"] = schedule_summaries(of_steps(report))
    keys = (*MANIFEST_KEYS, *(key for key in OPTIONAL_KEYS if key in manifest))
    return {**{key: manifest[key] for key in keys}, **told, "graph": graph}


def inspect_onnx(path: Path) -> dict[str, Any]:
    """The graph's summary. Raises `ExportError` for a file whose sizes, names or order do not add up."""
    with foreign_file(path):
        model = load_model(path, weights=False)
        check_sound(model)
        return {"onnx": readable(str(path)), "graph": graph_summary(model)}


def inspect_plan(path: Path) -> dict[str, Any]:
    """What the engine launches, at batch 1 where it serves several. ExportError for a plan that is not understood."""
    try:
        if path.is_file():
            _check_tag(path)
        schedule = read_schedule_file(path, 1)
    except UnreadableSchedule as error:
        raise ExportError(
            f"the schedule of {path} cannot be read: {error}",
            hint="plans of TensorRT-RTX hold one; of other engines the report of their bundle does, where it is known",
        ) from error
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error.strerror}") from error
    return {
        "plan": readable(str(path)),
        "launches": len(schedule.launches),
        "moved_bytes": schedule.moved,
        "kinds": schedule.by_kind(),
        "blocks": schedule.by_block(),
    }


def _check_tag(path: Path) -> None:
    """By its first bytes, before all others are read: whatever its name says, the file may be any, and of any size."""
    with path.open("rb") as file:
        if file.read(len(RTX_TAG)) != RTX_TAG:
            raise UnreadableSchedule("it does not begin as such a plan does")


def graph_summary(model: onnx.ModelProto) -> dict[str, Any]:
    """Opsets, operators, weight bytes by type, and the DSR sites by name."""
    by_type: Counter[str] = Counter()
    for weight in typed_weights(model):
        by_type[onnx.TensorProto.DataType.Name(weight.type).lower()] += weight.bytes
    sites = {site_of(node) for node in model.graph.node if is_lowered(node.name)}
    symbolic = {node.name for node in model.graph.node if node.domain == "dsr"}
    return {
        "ir_version": model.ir_version,
        "opsets": {opset.domain or "ai.onnx": opset.version for opset in model.opset_import},
        "nodes": len(model.graph.node),
        "operators": dict(Counter(node.op_type for node in model.graph.node).most_common()),
        "weight_bytes": dict(by_type),
        "dsr_sites": sorted(sites | symbolic),
    }
