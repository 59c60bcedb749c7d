"""The two stages that an INT8 build has between `optimize` and `type`: `calibrate` and `quantize`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.table import Table, choice_from, read_table
from dsr_export import stages
from dsr_export.build import Build
from dsr_export.cache import CachedStage
from dsr_export.int8.budget import Checks, Measure, Verdict, within_budget
from dsr_export.int8.calibrate import CHECKS, TABLE, calibrate
from dsr_export.int8.data import open_data
from dsr_export.int8.options import Int8Options
from dsr_export.int8.plan_files import read_plan
from dsr_export.parity.golden import MOST_ROWS, Golden
from dsr_export.parity.tolerances import TOLERANCES, Tolerance
from dsr_export.progress import Bar
from dsr_export.subject import SubjectCard
from dsr_export.tap_stages import LARGE
from graphs.artifacts import OptimizedModel
from graphs.files import load_inferred_graph, save_graph
from graphs.quantized import quantize_gemms
from graphs.weight_gemms import weight_gemms

Array = npt.NDArray[Any]


def calibrated(build: Build, card: SubjectCard, optimized: CachedStage) -> CachedStage:
    """The graph with channel factors folded in, the plan and the table."""
    options, config = build.config.int8, build.config
    sampler = stages.parity_sampler(card, config.batch, options.steps or config.trajectory_steps)
    graph_digest = OptimizedModel(path=optimized.path / stages.MODEL).digest

    def job(folder: Path, bar: Bar) -> None:
        def example(rows: int, seed: int) -> Mapping[str, Array]:
            subject = build.load()
            drawn, given = subject.example(rows, seed=seed), subject.given
            build.unload()
            if not given:
                return drawn
            return {name: np.concatenate([given[name][:MOST_ROWS], values]) for name, values in drawn.items()}

        data = None if options.tables else open_data(options, card, sampler, example)
        calibrate(optimized.path, graph_digest, card, options, data, folder, bar)

    read = {"of": optimized.digest, "card": card, "sampler": sampler, "subject": build.subject_key}  # its examples, too
    return build.stage("calibrate", {**read, **options.key()}, job)


def quantized(
    build: Build, card: SubjectCard, source: CachedStage, golden: Golden, reference: CachedStage
) -> CachedStage:
    """The graph with INT8 GEMMs, but for those that the budget leaves in FP16."""
    budget = int8_tolerance(build.config.int8).snr_db
    key = {"of": source.digest, "card": card, "golden": reference.digest, "budget": budget}
    return build.stage("quantize", key, partial(_quantize, source.path, card, golden, budget))


def int8_tolerance(options: Int8Options) -> Tolerance:
    """The precision's own, tightened to the budget asked for."""
    own = TOLERANCES["int8"]
    budget = options.budget_db
    return own if budget is None else dataclasses.replace(own, snr_db=budget, reason="the budget asked for")


def _quantize(source: Path, card: SubjectCard, golden: Golden, budget_db: float, folder: Path, bar: Bar) -> None:
    plan = read_plan(source)
    table = read_table(source / TABLE, model_sha256=_model_of(source))
    integer = [name for name, gemm in plan.items() if gemm.activation is not None]
    measure = Measure(source / stages.MODEL, plan, card.inputs, _checks(source, golden))
    rank = _local_rank(table.gemms, table.activations, integer) if card.parameters > LARGE else None
    alone = partial(_alone, measure)
    verdict = within_budget(integer, measure, budget_db, alone=alone, rank=rank, bar=bar)
    graph = load_inferred_graph(source / stages.MODEL)
    order = [gemm.name for gemm in weight_gemms(graph) if gemm.name in plan]
    quantize_gemms(graph, {name: gemm for name, gemm in plan.items() if name not in verdict.kept})
    save_graph(graph, folder / stages.MODEL)
    stages.write_json(folder / stages.FACTS, _facts(order, table, budget_db, verdict, measured=rank is None))


def _alone(measure: Measure, name: str) -> float:
    """One case is enough to rank by."""
    return measure([name], cases=1)


def _model_of(source: Path) -> str:
    """The graph that the stage's own table was measured on."""
    return str(stages.read_json(source / TABLE)["model_sha256"])


def _checks(source: Path, golden: Golden) -> Checks:
    """Calls of the calibration, where there was one, and the smallest golden case."""
    case = golden.cases[min(golden.cases)]
    first = [(dict(case.inputs), dict(case.outputs))]
    path = source / CHECKS
    return Checks.load(path).with_cases(first) if path.is_file() else Checks(first)


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
