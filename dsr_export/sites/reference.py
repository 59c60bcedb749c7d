"""What a build sees inside the model: reference values at every site, and a candidate's error there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dsr_export.backends.onnxruntime import OnnxRuntimeRunner
from dsr_export.backends.opening import tapped_runner
from dsr_export.config import BatchRange
from dsr_export.errors import RunnerError
from dsr_export.parity.batch_calls import in_batches
from dsr_export.parity.golden.vectors import Golden
from dsr_export.parity.tolerances import TOLERANCES
from dsr_export.sampling import SamplerSpec
from dsr_export.sites.bisection import bisect
from dsr_export.sites.errors import curve, site_errors
from dsr_export.sites.module_outputs import load_module_outputs, save_module_outputs
from dsr_export.sites.tap_file import Taps
from dsr_export.sites.tap_inputs import candidate_inputs, chosen_rows, taken
from dsr_export.sites.tap_reference import reference_taps
from dsr_export.sites.token_roles import RegisterRows
from dsr_export.storage.npz_file import read_npz
from dsr_export.subject import Subject, SubjectCard
from graphs.artifacts import OptimizedModel
from graphs.files import load_model
from graphs.observe.sites import Site, find_sites
from graphs.observe.tap_samples import INNER_VALUES, OUTER_VALUES, Layout, Sample
from graphs.observe.taps import Tap, add_taps
from graphs.precisions import Precision

if TYPE_CHECKING:
    from dsr_export.subject import ExportSubject

LARGE_RICHNESS = 8
MODULES, INPUTS = "modules.npz", "inputs.npz"


def record_reference(
    subject: ExportSubject, golden: Golden, sampler: SamplerSpec | None, batch: BatchRange, folder: Path
) -> None:
    """The images that taps are for, and what each module of a PyTorch subject returns for them."""
    groups = candidate_inputs(golden, sampler)
    large = subject.card().is_large
    counts = _rows(len(groups), large=large)
    if not isinstance(subject, Subject):  # an ONNX file: its graph is all there is
        unseen = [np.zeros((len(next(iter(group.values()))), 0)) for group in groups]
        _save_inputs(taken(groups, [chosen_rows(*each) for each in zip(unseen, counts, strict=True)]), folder)
        return
    from dsr_export.sites.torch_modules import record_modules, replaced_tokens

    seen = [replaced_tokens(subject, group, batch) for group in groups]
    inputs = taken(groups, [chosen_rows(*each) for each in zip(seen, counts, strict=True)])
    _save_inputs(inputs, folder)
    values = OUTER_VALUES * _richness(large=large)
    save_module_outputs(record_modules(subject, inputs, batch, values), folder / MODULES)


def _richness(*, large: bool) -> int:
    """How many times the values of a small model a large one keeps: it has more tokens, and room for them."""
    return LARGE_RICHNESS if large else 1


def _rows(groups: int, *, large: bool) -> tuple[int, ...]:
    """Images of each group: without a trajectory, two drawn ones."""
    if groups == 1:
        return (2,)
    return (1, 1, 1) if large else (1, 2, 1)


def _save_inputs(inputs: dict[str, Any], folder: Path) -> None:
    with (folder / INPUTS).open("wb") as stream:
        np.savez_compressed(stream, **inputs)


def make_taps(optimized: OptimizedModel, reference: Path, card: SubjectCard, batch: BatchRange) -> Taps:
    """The FP32 graph, node by node as written, at all of its sites; PyTorch's values wherever a module returns them.

    `reference` is the folder that `record_reference` wrote into.
    """
    inputs = read_npz(reference / INPUTS)
    taps = [_tap(site, large=card.is_large) for site in find_sites(optimized.path)]
    tapped = add_taps(load_model(optimized.path, weights=False), taps)
    model = tapped.model.SerializeToString()
    with OnnxRuntimeRunner(model, inputs=card.inputs, optimize=False, weights=optimized.path.parent) as runner:
        made = in_batches(runner.infer, inputs, batch)
    found = [(taps[i].site, Sample(made[values], made[norms])) for i, (values, norms) in tapped.outputs.items()]
    modules = load_module_outputs(reference / MODULES)
    return reference_taps(inputs, found, modules)


def check_sites(
    taps: Path, model: Path, card: SubjectCard, precision: Precision, batch: BatchRange, *, passed: bool
) -> dict[str, Any]:
    """`sites` and `tensors` of the report, and `bisection` where the candidate failed.

    Raises ExportError where `taps` is damaged: nothing is then known of the candidate.
    """
    reference = Taps.from_arrays(read_npz(taps), where=taps)
    try:
        runner, tapped = tapped_runner(model, card.inputs, precision, [tap.tap for tap in reference.taps])
        errors = site_errors(runner, tapped, reference, batch)
    except RunnerError as error:  # a graph that does not run has failed parity already, with its reason
        return {"sites": [], "tensors": [], "bisection": {"site": None, "problem": error.message}}
    registers = RegisterRows.of(card.dsr, [tap.site for tap in reference.taps])
    found = None if passed else bisect(errors, registers, TOLERANCES[precision], {}).as_dict()
    tensors = [error.as_dict() for error in errors if not error.lost]
    return {"sites": curve(errors), "tensors": tensors, "bisection": found}


def _tap(site: Site, *, large: bool) -> Tap:
    values = (OUTER_VALUES if site.outer else INNER_VALUES) * _richness(large=large)
    return Tap(site, Layout.of((1, *site.shape)).channels_for(values))
