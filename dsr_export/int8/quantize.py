"""Which GEMMs of a calibrated graph become INT8 within a budget, and the graph that has them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from calibration.table import Table, choice_from, read_table
from dsr_export.int8.budget import Checks, Measure, Verdict, within_budget
from dsr_export.int8.calibrate import TABLE
from dsr_export.int8.plan_files import read_plan
from dsr_export.progress import Bar
from dsr_export.subject import SubjectCard
from graphs.artifacts import CalibratedModel
from graphs.files import load_inferred_graph, save_graph
from graphs.quantize.gemms import quantize_gemms
from graphs.weights.gemms import weight_gemms


def quantize(
    source: CalibratedModel, checks: Checks, card: SubjectCard, budget_db: float, path: Path, bar: Bar
) -> dict[str, Any]:
    """Writes the graph with INT8 GEMMs to `path`; returns what the report says of each GEMM.

    The plan and the table lie beside `source`, as the calibration left them.
    """
    beside = source.path.parent
    plan = read_plan(beside)
    table = read_table(beside / TABLE, model_sha256=_model_of(beside / TABLE))
    integer = [name for name, gemm in plan.items() if gemm.activation is not None]
    measure = Measure(source.path, plan, card.inputs, checks)
    rank = _local_rank(table.gemms, table.activations, integer) if card.is_large else None
    verdict = within_budget(integer, measure, budget_db, alone=partial(_alone, measure), rank=rank, bar=bar)
    graph = load_inferred_graph(source.path)
    order = [gemm.name for gemm in weight_gemms(graph) if gemm.name in plan]
    quantize_gemms(graph, {name: gemm for name, gemm in plan.items() if name not in verdict.kept})
    save_graph(graph, path)
    return _facts(order, table, budget_db, verdict, measured=rank is None)


def _model_of(table: Path) -> str:
    """The graph that the stage's own table was measured on."""
    return str(json.loads(table.read_text(encoding="utf-8"))["model_sha256"])


def _alone(measure: Measure, name: str) -> float:
    """One case is enough to rank by."""
    return measure([name], cases=1)


def _local_rank(
    gemms: Mapping[str, Mapping[str, Any]], activations: Mapping[str, Mapping[str, Any]], names: list[str]
) -> dict[str, float]:
    """The error at each GEMM's own output: a large model can't be measured once for every GEMM."""
    return {name: choice_from(name, activations[gemms[name]["activation"]]).snr_db for name in names}


def _facts(order: list[str], table: Table, budget_db: float, verdict: Verdict, *, measured: bool) -> dict[str, Any]:
    gemms: list[dict[str, Any]] = []
    for name, known in ((name, table.gemms[name]) for name in order):
        entry = table.activations.get(known["activation"], {}) if not known["condition"] else {}
        in_fp16 = name in verdict.kept
        gemms.append(
            {
                "name": name,
                "precision": "fp16" if in_fp16 else "int8",
                "flops_share": known["flops_share"],
                "rows": entry.get("rows"),
                "smoothed": entry.get("channel_factors") is not None,
                "snr_db": {"minmax": entry.get("naive_snr_db"), "chosen": entry.get("snr_db")},
                "sensitivity_db": verdict.sensitivity_db.get(name),
                "clipped": entry.get("clipped"),
                "roles": entry.get("roles", {}),
            }
        )
    return {
        "method": table.method,
        "budget_snr_db": budget_db,
        "reached_snr_db": verdict.snr_db,
        "sensitivity": "measured" if measured else "local",
        "int8_flops_share": float(np.sum([g["flops_share"] for g in gemms if g["precision"] == "int8"])),
        "gemms": gemms,
    }
