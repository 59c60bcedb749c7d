"""The stage `calibrate`: walks the data over the FP32 graph, chooses, folds channel factors and writes codes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.activation_schemes import Choice
from calibration.plan import Chosen, Planned, activation_groups, fold_choices, quantised_gemms
from calibration.policy import Selection
from calibration.seen_products import SeenProducts
from calibration.stats import ActivationStats
from calibration.table import Table, activation_entry, merged, read_table
from dsr_export.declarations.int8_options import Int8Options
from dsr_export.errors import ExportError
from dsr_export.int8.measure import Measured, ObservedGraph, close, opened
from dsr_export.int8.plan_files import PlanWriter
from dsr_export.progress import Bar
from dsr_export.subject import SubjectCard
from graphs.artifacts import OptimizedModel
from graphs.files import save_graph
from graphs.outside_readers import outside_readers
from graphs.quantize.formats import CodeFormat
from graphs.quantize.schemes import Scheme

Array = npt.NDArray[Any]
MODEL, TABLE, CHECKS = "model.onnx", "calibration.json", "checks.npz"
GEMM_KEYS = {"activation", "condition", "flops_share"}  # of a table's entry
_NOTHING = np.zeros((0, 0), np.int8)  # codes are on disk by then


def calibrate(
    source: OptimizedModel,
    card: SubjectCard,
    options: Int8Options,
    scheme: Scheme,
    measure: Callable[[ObservedGraph], Measured] | None,
    folder: Path,
    bar: Bar,
    *,
    told: Mapping[str, Any] | None = None,
) -> None:
    """From the optimised graph: the same graph with channel factors folded, the plan, and the table.

    `measure` is None where `options` name tables to use instead. `told` is what the table says of its data beside them.
    """
    digest = source.digest
    observed = opened(source, card, options, scheme, folder)
    graph, selection, recipe = observed.graph, observed.selection, observed.recipe
    given = _given(options, digest)
    found = None if measure is None else measure(observed)
    stats = {} if found is None else found.stats
    if found is not None:
        found.kept.save(folder / CHECKS)
    groups = activation_groups(selection)
    choices = given.choices() if given else {}
    if given is not None:
        _check_given(given, choices, groups, scheme, options)
    with outside_readers(graph):  # an output that was divided would be another
        chosen = fold_choices(groups, stats, recipe, choices, bar, normed=selection.normed, scheme=scheme)
    products = SeenProducts(groups, stats, chosen, scheme)
    if found is not None and recipe.products:
        observed.again(found.kept, products.observe, folder)
    writers = {form.name: PlanWriter(folder, form.name) for form in (*scheme.tokens, scheme.condition)}
    written: list[Planned] = []
    for planned in quantised_gemms(groups, selection, stats, chosen, recipe, scheme, products.largest):
        writers[planned.format.name].add(planned.gemm.name, planned.quantized)
        written.append(dataclasses.replace(planned, quantized=dataclasses.replace(planned.quantized, codes=_NOTHING)))
        bar(len({each.gemm.name for each in written}), len(selection.all))
    for writer in writers.values():
        writer.close()
    table = given or _table(digest, options, scheme, selection, stats, chosen, written, told or {})
    (folder / TABLE).write_bytes(table.to_bytes())
    save_graph(graph, folder / MODEL)
    close(folder)


def _given(options: Int8Options, digest: str) -> Table | None:
    tables = [read_table(path, model_sha256=digest) for path in options.tables]
    return merged(tables) if tables else None


def _check_given(
    given: Table,
    choices: Mapping[str, Sequence[Choice]],
    groups: list[list[Any]],
    scheme: Scheme,
    options: Int8Options,
) -> None:
    _check_rank(given, options)
    _check_formats(choices, groups, scheme)
    missing = [str(group[0].activation.name) for group in groups if str(group[0].activation.name) not in choices]
    gemms = [each.name for group in groups for each in group]
    missing += [name for name in gemms if not given.gemms.get(name, {}).keys() >= GEMM_KEYS]
    if missing:
        raise ExportError(f"the calibration table says nothing of '{missing[0]}'", hint="calibrate again")


def _check_rank(given: Table, options: Int8Options) -> None:
    if any(rank != options.rank for rank in given.ranks):
        raise ExportError(
            f"the calibration table is of branches of {_rank(*given.ranks)}, and this build has {_rank(options.rank)}",
            hint="build with the same --rank, or calibrate again without the table",
        )


def _check_formats(choices: Mapping[str, Sequence[Choice]], groups: list[list[Any]], scheme: Scheme) -> None:
    for group in groups:
        known = [each.activation.format for each in choices.get(str(group[0].activation.name), ())]
        wanted = [each.activations for each in scheme.formats(group[0].in_features)]
        if known and known != wanted:
            raise ExportError(
                f"the calibration table is of another precision: its codes are {_named(known)}, "
                f"and those of {scheme.name} {_named(wanted)}",
                hint="give the table of a bundle of this precision, or calibrate again without it",
            )


def _rank(*ranks: int | None) -> str:
    return "the default rank" if None in ranks else " and ".join(f"rank {each}" for each in ranks)


def _named(forms: Sequence[CodeFormat]) -> str:
    return " or ".join(each.name.upper() for each in forms)


def _table(
    digest: str,
    options: Int8Options,
    scheme: Scheme,
    selection: Selection,
    stats: Mapping[str, ActivationStats],
    chosen: Mapping[str, Chosen],
    written: list[Planned],
    told: Mapping[str, Any],
) -> Table:
    activations, gemms = {}, {}
    for each in written:
        name = str(each.gemm.activation.name)
        seen = stats[name]
        if each.choice is not None and name not in activations:
            activations[name] = activation_entry(
                *chosen[name].choices,
                naive_snr_db=each.naive_snr_db,
                clipped=each.clipped,
                amax=seen.magnitudes.largest,
                roles=seen.roles_as_dict(),
            )
        place = 0 if each.choice is None else scheme.formats(each.gemm.in_features).index(each.format)
        if place:
            activations[name]["finer"][place - 1]["clipped"] = each.clipped
        gemms[each.gemm.name] = {
            "activation": name,
            "condition": each.choice is None,
            "flops_share": each.gemm.flops / selection.total_flops,
        }
    data = {"kind": options.data, "images": options.images, "steps": options.steps, **told}
    if options.rank is not None:
        data["rank"] = options.rank
    return Table(digest, options.method, json.loads(json.dumps(data)), activations, gemms)
