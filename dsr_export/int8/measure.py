"""What is measured for a calibration: the FP32 graph walked over data, and every activation that a GEMM reads."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx_graphsurgeon as gs

from calibration.collect import CalibrationData, Call, new_stats, observe
from calibration.methods import METHODS, Recipe
from calibration.places import TokenPlaces
from calibration.plan import graph_activations
from calibration.policy import Selection, select
from calibration.shelf import Shelf
from calibration.stats import ActivationStats
from calibration.token_roles import RegisterRows
from dsr_export.backends.onnxruntime import OnnxRuntimeRunner
from dsr_export.declarations.int8_options import Int8Options
from dsr_export.errors import ExportError
from dsr_export.int8.kept_calls import KEPT_ROWS, KeptCalls
from dsr_export.progress import Bar
from dsr_export.sites.token_roles import first_rows
from dsr_export.subject import SubjectCard, prompt_mask
from graphs.artifacts import OptimizedModel
from graphs.files import load_inferred_graph, save_graph
from graphs.observe.probes import add_outputs
from graphs.quantize.gate_padding import pad_gated_mlps
from graphs.quantize.nan_sources import may_be_nan
from graphs.quantize.schemes import Scheme

Array = npt.NDArray[Any]
PADDED, TAPPED, WAITING = "padded.onnx", "tapped.onnx", "waiting"


@dataclass(frozen=True)
class Measured:
    """Statistics by activation, and a few calls."""

    stats: dict[str, ActivationStats]
    kept: KeptCalls


@dataclass(frozen=True)
class ObservedGraph:
    """A graph whose GEMMs become INT8: `path` is its file, `graph` what is changed."""

    path: Path
    graph: gs.Graph
    selection: Selection
    card: SubjectCard
    recipe: Recipe

    @cached_property
    def _with_nan(self) -> bool:
        spoilt = may_be_nan(self.graph)
        return any(id(gemm.activation) in spoilt for gemm in self.selection.all)

    def observers(self, sections: int, shelf: Shelf | None = None) -> dict[str, ActivationStats]:
        """Of each activation, for data of so many sections. What waits is on the shelf."""
        return new_stats(
            self.selection,
            register_rows(self.card, self.selection),
            hessians=self.recipe.rounding,
            with_nan=self._with_nan,
            places=token_places(self.card),
            sections=sections,
            shelf=shelf,
        )

    def measured(self, data: CalibrationData, folder: Path, bar: Bar, only: Container[int] | None = None) -> Measured:
        """Walks the data, or the sections `only`. `close` removes what waits in `folder` for more of them."""
        stats = self.observers(data.sections.count, Shelf(folder / WAITING))
        kept = KeptCalls(rows=max(KEPT_ROWS, self.card.batch_limits[0]))
        main = self.card.outputs[0].name
        with ExitStack() as stack:
            session = cache(
                lambda: stack.enter_context(self._tapped(folder))
            )  # not while data load models of their own

            def answer(call: Call) -> Array:
                outputs = session().infer(call.inputs)
                observe(stats, outputs, call)
                kept.offer(call, {spec.name: outputs[spec.name] for spec in self.card.outputs})
                return outputs[main]

            data.drive(answer, bar, only)
        return Measured(stats, kept)

    def again(self, kept: KeptCalls, look: Callable[[Mapping[str, Array], int], None], folder: Path) -> None:
        """Makes the `kept` calls once more: `look` gets each one's activations by name, and its number of samples."""
        with self._tapped(folder) as runner:
            for inputs in kept.inputs:
                look(runner.infer(inputs), len(next(iter(inputs.values()))))

    @contextmanager
    def _tapped(self, folder: Path) -> Iterator[OnnxRuntimeRunner]:
        """Runs the graph with every activation among its outputs."""
        tapped = add_outputs(OptimizedModel(path=self.path), folder / TAPPED, list(graph_activations(self.selection)))
        with OnnxRuntimeRunner(tapped, inputs=self.card.inputs) as runner:
            yield runner
        _remove(folder, TAPPED)


def opened(
    source: OptimizedModel, card: SubjectCard, options: Int8Options, scheme: Scheme, folder: Path
) -> ObservedGraph:
    """The graph that is calibrated: with gated MLPs widened to what integer kernels like, where any needs it.

    `close` removes what it put into `folder`.

    Raises:
        ExportError: no GEMM can have codes of the scheme.
    """
    graph = load_inferred_graph(source.path)
    path = save_graph(graph, folder / PADDED) if scheme.for_cpus and pad_gated_mlps(graph) else source.path
    graph = load_inferred_graph(path)
    selection = select(graph, card.fp32_modules, card.outer_modules)
    _check_selected(selection, scheme, card)
    return ObservedGraph(path, graph, selection, card, METHODS[options.method])


def _check_selected(selection: Selection, scheme: Scheme, card: SubjectCard) -> None:
    """Else a model without any GEMM in the format asked for would pass for one that has it."""
    asked, *finer = scheme.tokens
    if any(asked in scheme.formats(gemm.in_features) for gemm in selection.integer):
        return
    whole = "" if asked.block is None else f" with inputs in whole blocks of {asked.block}"
    possible = [form.name for gemm in selection.integer for form in scheme.formats(gemm.in_features)]
    other = next((form.name for form in finer if form.name in possible), "fp16")
    raise ExportError(
        f"{card.name} has no GEMM that can become {scheme.name}: "
        f"none of 16 or more rows and channels{whole} lies inside of it",
        hint=f"build with --precision {other}",
    )


def close(folder: Path) -> None:
    """Removes the graph of `opened`, and what `measured` left waiting."""
    _remove(folder, PADDED)
    Shelf(folder / WAITING).clear()


def _remove(folder: Path, name: str) -> None:
    for path in folder.glob(f"{name}*"):
        path.unlink()


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
    mask = prompt_mask(card.inputs) if card.grid is not None else None
    return TokenPlaces(grid=card.grid, mask=mask, text=card.text_rows)
