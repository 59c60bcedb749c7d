"""The stage `calibrate`: walks the data over the FP32 graph, chooses, folds channel factors and writes codes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.collect import CalibrationData, Call, new_stats, observe
from calibration.methods import METHODS
from calibration.places import TokenPlaces
from calibration.plan import Planned, activation_groups, fold_choices, graph_activations, quantised_gemms
from calibration.policy import Selection, select
from calibration.stats import ActivationStats
from calibration.table import Table, activation_entry, merged, read_table
from calibration.token_roles import RegisterRows
from dsr_export.backends.onnxruntime import OnnxRuntimeRunner
from dsr_export.declarations.int8_options import Int8Options
from dsr_export.errors import ExportError
from dsr_export.int8.plan_files import PlanWriter
from dsr_export.progress import Bar
from dsr_export.sites.token_roles import first_rows
from dsr_export.subject import SubjectCard, prompt_mask
from graphs.artifacts import OptimizedModel
from graphs.files import load_inferred_graph, save_graph
from graphs.observe.probes import add_outputs
from graphs.outside_readers import outside_readers
from graphs.quantize.gate_padding import pad_gated_mlps
from graphs.quantize.nan_sources import may_be_nan

Array = npt.NDArray[Any]
PADDED = "padded.onnx"
MODEL, TABLE, CHECKS = "model.onnx", "calibration.json", "checks.npz"
CHECKED_CALLS, CHECKED_ROWS = 3, 4
GEMM_KEYS = {"activation", "condition", "flops_share"}  # of a table's entry


def calibrate(
    source: OptimizedModel,
    card: SubjectCard,
    options: Int8Options,
    data: CalibrationData | None,
    folder: Path,
    bar: Bar,
) -> None:
    """From the optimised graph: the same graph with channel factors folded, the plan, and the table.

    `data` is None where `options` name tables to use instead.
    """
    recipe, digest = METHODS[options.method], source.digest
    model = _padded(source.path, folder)
    graph = load_inferred_graph(model)
    selection = select(graph, (*card.fp32_modules, *card.outer_modules))
    if not selection.integer:
        raise ExportError(
            f"{card.name} has no GEMM that can become INT8: none of 16 or more rows and channels lies inside of it",
            hint="build with --precision fp16",
        )
    given = _given(options, digest)
    stats: dict[str, ActivationStats] = {}
    if data is not None:
        registers, spoilt = register_rows(card, selection), may_be_nan(graph)
        with_nan = any(id(gemm.activation) in spoilt for gemm in selection.all)
        known = token_places(card)
        stats = new_stats(selection, registers, hessians=recipe.rounding, with_nan=with_nan, places=known)
        _measure(model, card, selection, stats, data, folder, bar)
    groups = activation_groups(selection)
    choices = given.choices() if given else {}
    if given is not None:
        _check_given(given, choices, groups)
    with outside_readers(graph):  # an output that was divided would be another
        chosen = fold_choices(groups, stats, recipe, choices, bar, normed=selection.normed)
    writer, written = PlanWriter(folder), []
    for planned in quantised_gemms(groups, selection, stats, chosen, recipe):
        writer.add(planned.gemm.name, planned.quantized)
        written.append(dataclasses.replace(planned, quantized=dataclasses.replace(planned.quantized, codes=_NOTHING)))
        bar(len(written), len(selection.all))
    writer.close()
    table = _table(digest, options, selection, stats, written, given)
    (folder / TABLE).write_bytes(table.to_bytes())
    save_graph(graph, folder / MODEL)
    for path in folder.glob(f"{PADDED}*"):
        path.unlink()


def _padded(model: Path, folder: Path) -> Path:
    """The model with gated MLPs widened to what integer kernels like, where any needs it."""
    graph = load_inferred_graph(model)
    return save_graph(graph, folder / PADDED) if pad_gated_mlps(graph) else model


_NOTHING = np.zeros((0, 0), np.int8)  # codes are on disk by then


def register_rows(card: SubjectCard, selection: Selection) -> RegisterRows:
    """Where the model keeps its registers: the longest sequence holds them."""
    longest = max((gemm.rows for gemm in selection.integer), default=0)
    encoder, denoiser = card.dsr["encoder"], card.dsr["denoiser"]
    if encoder["kind"] in ("appended", "test-time"):
        return RegisterRows(count=encoder["registers"], patches=longest - encoder["registers"], end="last")
    count = denoiser["registers"] if denoiser["kind"] == "diffusion" else 0
    rows = first_rows(denoiser)
    longest = max((gemm.rows for gemm in selection.integer if gemm.rows not in rows), default=longest)
    return RegisterRows(count=count, patches=longest - count, rows=rows)


def token_places(card: SubjectCard) -> TokenPlaces:
    """Where the image's tokens lie, and which input hides a prompt's padding, where the family says so."""
    return TokenPlaces(grid=card.grid, mask=prompt_mask(card.inputs) if card.grid is not None else None)


def _measure(
    model: Path,
    card: SubjectCard,
    selection: Selection,
    stats: Mapping[str, ActivationStats],
    data: CalibrationData,
    folder: Path,
    bar: Bar,
) -> None:
    """Fills the statistics of every activation that a selected GEMM reads; some calls are kept to check the budget."""
    tapped = add_outputs(OptimizedModel(path=model), folder / "tapped.onnx", list(graph_activations(selection)))
    kept, main = _Kept(), card.outputs[0].name
    with OnnxRuntimeRunner(tapped, inputs=card.inputs) as runner:

        def answer(call: Call) -> Array:
            outputs = runner.infer(call.inputs)
            observe(stats, outputs, call)
            kept.offer(call, {spec.name: outputs[spec.name] for spec in card.outputs})
            return outputs[main]

        data.drive(answer, bar)
    for path in folder.glob("tapped.onnx*"):
        path.unlink()
    kept.save(folder / CHECKS)


@dataclasses.dataclass
class _Kept:
    """A few calls with what FP32 made of them: those nearest to evenly spaced places between noise and data."""

    calls: dict[float, tuple[float, Call, Mapping[str, Array]]] = dataclasses.field(default_factory=dict)

    def offer(self, call: Call, outputs: Mapping[str, Array]) -> None:
        at = float(call.progress[0])
        for place in np.linspace(0, 1, CHECKED_CALLS):
            if place not in self.calls or abs(at - place) < self.calls[place][0]:
                self.calls[float(place)] = abs(at - float(place)), call, outputs

    def save(self, path: Path) -> None:
        arrays: dict[str, Array] = {}
        for i, (_, call, outputs) in enumerate({id(v[1]): v for v in self.calls.values()}.values()):
            rows = np.unique(np.linspace(0, len(call.samples) - 1, CHECKED_ROWS).astype(int))
            arrays |= {f"{i}/in/{name}": value[rows] for name, value in call.inputs.items()}
            arrays |= {f"{i}/out/{name}": value[rows] for name, value in outputs.items()}
        with path.open("wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]


def _given(options: Int8Options, digest: str) -> Table | None:
    tables = [read_table(path, model_sha256=digest) for path in options.tables]
    return merged(tables) if tables else None


def _check_given(given: Table, choices: Mapping[str, Any], groups: list[list[Any]]) -> None:
    missing = [str(group[0].activation.name) for group in groups if str(group[0].activation.name) not in choices]
    gemms = [each.name for group in groups for each in group]
    missing += [name for name in gemms if not given.gemms.get(name, {}).keys() >= GEMM_KEYS]
    if missing:
        raise ExportError(f"the calibration table says nothing of '{missing[0]}'", hint="calibrate again")


def _table(
    digest: str,
    options: Int8Options,
    selection: Selection,
    stats: Mapping[str, ActivationStats],
    written: list[Planned],
    given: Table | None,
) -> Table:
    if given is not None:
        return given
    activations, gemms = {}, {}
    for each in written:
        name = str(each.gemm.activation.name)
        seen = stats[name]
        if each.choice is not None:
            activations[name] = activation_entry(
                each.choice,
                naive_snr_db=each.naive_snr_db,
                clipped=each.clipped,
                amax=seen.magnitudes.largest,
                roles=seen.roles_as_dict(),
            )
        gemms[each.gemm.name] = {
            "activation": name,
            "condition": each.choice is None,
            "flops_share": each.gemm.flops / selection.total_flops,
        }
    data = {"kind": options.data, "images": options.images, "steps": options.steps}
    return Table(digest, options.method, json.loads(json.dumps(data)), activations, gemms)
