"""Which GEMMs of a calibrated graph are quantised within a budget, and the graph that has them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from calibration.table import Table, choices_from, read_table
from dsr_export.int8.budget import Checks, Measure
from dsr_export.int8.calibrate import TABLE
from dsr_export.int8.data_facts import data_facts
from dsr_export.int8.gemm_costs import FP16, stored_bytes
from dsr_export.int8.ladders import Formats, Ladder, Verdict, within_budget
from dsr_export.int8.plan_files import Plans, chosen_plan, read_plans
from dsr_export.progress import Bar
from dsr_export.reports.witness import witness_of
from dsr_export.subject import SubjectCard
from graphs.artifacts import CalibratedModel
from graphs.files import load_inferred_graph, save_graph
from graphs.precisions import Precision, report_key
from graphs.quantize.attention_outputs import projects_floats
from graphs.quantize.gemms import quantize_gemms
from graphs.quantize.quantizers import QuantizedGemm
from graphs.quantize.schemes import SCHEMES, Scheme
from graphs.weights.gemms import WeightGemm, weight_gemms


def quantize(
    source: CalibratedModel,
    checks: Checks,
    card: SubjectCard,
    precision: Precision,
    aim_db: float,
    path: Path,
    bar: Bar,
    *,
    beyond_db: float,
    for_engines: bool,
) -> dict[str, Any]:
    """Writes the graph with quantised GEMMs to `path`; returns what the report says of each GEMM.

    What costs nothing is taken until the output keeps `beyond_db` more than with all GEMMs in their first formats.
    `for_engines` products are handed on as codes where the plan has them so, and what an engine would have in floats
    all the same is no rung of a ladder.

    The plan and the table lie beside `source`, as the calibration left them.
    """
    beside = source.path.parent
    plans = read_plans(beside, SCHEMES[precision])
    plans = plans if for_engines else _without_coded_products(plans)
    table = read_table(beside / TABLE, model_sha256=_model_of(beside / TABLE))
    measure = Measure(source.path, plans, card.inputs, checks, precision)
    graph = load_inferred_graph(source.path)
    gemms = [gemm for gemm in weight_gemms(graph) if gemm.name in plans]
    shapes = {gemm.name: _Shape.of(gemm) for gemm in gemms}
    ladders = _ladders(plans, table, shapes, _in_floats(gemms, plans) if for_engines else {})
    rank = {name: ladder.local_db[0] for name, ladder in ladders.items()} if card.is_large else None
    alone = partial(_alone, measure, ladders)
    verdict = within_budget(ladders, measure, aim_db, alone=alone, rank=rank, bar=bar, beyond_db=beyond_db)
    formats = {**{name: next(iter(plans[name])) for name in plans.keys() - ladders.keys()}, **verdict.formats}
    quantize_gemms(graph, chosen_plan(plans, formats))
    save_graph(graph, path)
    facts = _facts(list(shapes), table, precision, aim_db, verdict, formats, measured=rank is None)
    for gemm in facts["gemms"]:
        form = formats.get(gemm["name"])
        planned = None if form is None else plans[gemm["name"]][form]
        gemm |= asdict(shapes[gemm["name"]]) | {"rank": _rank(planned)}
    return facts


@dataclass(frozen=True, kw_only=True)
class _Shape:
    """Of a GEMM for one sample, and the tensor that it `reads`: what its cost follows from."""

    reads: str
    tokens: int
    inputs: int
    outputs: int

    @classmethod
    def of(cls, gemm: WeightGemm) -> _Shape:
        sizes = {"tokens": gemm.rows, "inputs": gemm.in_features, "outputs": gemm.out_features}
        return cls(reads=str(gemm.activation.name), **sizes)

    def stored(self, form: str, rank: int = 0) -> int:
        """Bytes of the weight in that format."""
        return stored_bytes(form, self.tokens, self.inputs, self.outputs, rank)


def _without_coded_products(plans: Plans) -> Plans:
    return {
        name: {form: replace(gemm, product_steps=None) for form, gemm in formats.items()}
        for name, formats in plans.items()
    }


def _rank(planned: QuantizedGemm | None) -> int:
    return 0 if planned is None or planned.branch is None else int(planned.branch[1].shape[0])


def _model_of(table: Path) -> str:
    """The graph that the stage's own table was measured on."""
    return str(json.loads(table.read_text(encoding="utf-8"))["model_sha256"])


def _in_floats(gemms: Sequence[WeightGemm], plans: Plans) -> dict[str, set[str]]:
    """Of each GEMM the formats, beside its first, that an engine would not have."""
    return {
        gemm.name: {
            form
            for form, planned in list(plans[gemm.name].items())[1:]
            if planned.activation is not None and projects_floats(gemm, planned.activation)
        }
        for gemm in gemms
    }


def _ladders(
    plans: Plans, table: Table, shapes: Mapping[str, _Shape], in_floats: Mapping[str, set[str]]
) -> dict[str, Ladder]:
    """Of each GEMM that may stay in floats, what it may become, without what would be `in_floats` then. A large model
    can't be measured once for every GEMM, so that the error at its own output stands for it."""
    ladders = {}
    for name, formats in plans.items():
        if all(gemm.activation is not None for gemm in formats.values()):
            activation = table.gemms[name]["activation"]
            choices = choices_from(name, table.activations[activation])
            kept = [
                (form, planned, choice)
                for (form, planned), choice in zip(formats.items(), choices, strict=True)
                if form not in in_floats.get(name, ())
            ]
            sizes = (shapes[name].stored(form, _rank(planned)) for form, planned, _ in kept)
            ladders[name] = Ladder(
                formats=tuple(form for form, _, _ in kept),
                local_db=tuple(choice.snr_db for _, _, choice in kept),
                bytes=(*sizes, shapes[name].stored(FP16)),
                passes=tuple(choice.activation.rows == "dynamic" for _, _, choice in kept),
            )
    return ladders


def _alone(measure: Measure, ladders: Mapping[str, Ladder], name: str) -> float:
    """One case is enough to rank by."""
    return measure({name: ladders[name].formats[0]}, cases=1)


def _facts(
    order: list[str],
    table: Table,
    precision: Precision,
    aim_db: float,
    verdict: Verdict,
    formats: Formats,
    *,
    measured: bool,
) -> dict[str, Any]:
    gemms: list[dict[str, Any]] = []
    for name, known in ((name, table.gemms[name]) for name in order):
        entry = table.activations.get(known["activation"], {}) if not known["condition"] else {}
        own = _of_format(entry, formats.get(name), SCHEMES[precision])
        gemms.append(
            {
                "name": name,
                "precision": formats.get(name, FP16),
                "flops_share": known["flops_share"],
                "rows": own.get("rows"),
                "smoothed": entry.get("channel_factors") is not None,
                "snr_db": {"minmax": entry.get("naive_snr_db"), "chosen": entry.get("snr_db")},
                "sensitivity_db": verdict.sensitivity_db.get(name),
                "clipped": own.get("clipped"),
                "roles": entry.get("roles", {}),
            }
        )
    return {
        "method": table.method,
        "data": data_facts(table),
        "aimed_snr_db": aim_db,
        **({"rank": _asked(table, SCHEMES[precision])} if SCHEMES[precision].has_branch else {}),
        "witness": witness_of(*formats.values()),
        "reached_snr_db": verdict.snr_db,
        "sensitivity": "measured" if measured else "local",
        f"{report_key(precision)}_flops_share": float(
            np.sum([g["flops_share"] for g in gemms if g["precision"] == precision])
        ),
        "gemms": gemms,
    }


def _asked(table: Table, scheme: Scheme) -> int:
    """The rank of branches; GEMMs of few inputs have less."""
    asked = table.ranks[0]
    return scheme.tokens[0].rank if asked is None else asked


def _of_format(entry: Mapping[str, Any], form: str | None, scheme: Scheme) -> Mapping[str, Any]:
    """What of an activation's entry is of one format; of the first where a GEMM stays floats."""
    names = [each.name for each in scheme.formats(entry["width"])] if entry else []
    return entry["finer"][names.index(form) - 1] if form in names[1:] else entry
