"""The golden vectors of a bundle, which someone else may have written: held against its manifest before any use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt

from dsr_export.backends.inputs import check_inputs
from dsr_export.errors import ExportError
from dsr_export.parity.golden.vectors import MOST_ROWS, Case, Golden, ReferenceTrajectory

if TYPE_CHECKING:
    from dsr_export.bundle.manifest import Manifest
    from dsr_export.bundle.reader import Bundle
    from graphs.artifacts import TensorSpec

Array = npt.NDArray[Any]
_WALK = frozenset({"noise", "labels", "states"})
_HINT = "build the bundle again"


def read_golden(bundle: Bundle) -> Golden:
    """Raises ExportError where `golden.npz` is unreadable, or its arrays do not fit the manifest or each other."""
    from dsr_export.bundle.reader import GOLDEN

    where, arrays = bundle.file(GOLDEN), bundle.golden()
    sizes = _check_names(where, arrays)
    golden = Golden.from_arrays(arrays)
    if not sizes:
        _refuse(where, "holds no batch")
    for size, case in golden.cases.items():
        _check_batch(where, bundle.manifest, size, case)
    for name, case in golden.further.items():
        _check_further(where, bundle.manifest, name, case)
    if golden.trajectory is not None:
        _check_trajectory(where, golden.trajectory)
        _check_walked(where, bundle.manifest, golden.trajectory)
    return golden


def _check_names(where: Path, arrays: Mapping[str, Array]) -> set[str]:
    """The batches; a name that is none of `Golden.save` would be read as something else, or be left out."""
    batches = {name.split("/")[0] for name in arrays if name.startswith("batch")}
    for batch in batches:
        digits = batch.removeprefix("batch")
        if not (digits.isascii() and digits.isdecimal() and len(digits) < 10 and str(int(digits)) == digits):
            _refuse(where, f"holds {batch[:80]!r}, which is no batch size")
    walk = {name.removeprefix("trajectory/") for name in arrays if name.startswith("trajectory/")}
    if walk and walk != _WALK:
        _refuse(where, "holds a trajectory without noise, labels or states, or with more")
    return batches


def _check_batch(where: Path, manifest: Manifest, size: int, case: Case) -> None:
    if not manifest.batch.min <= size <= manifest.batch.max:
        _refuse(where, f"holds batch {size}, outside of {manifest.batch.min} to {manifest.batch.max}")
    _check_case(where, f"batch {size}", case, manifest.inputs, manifest.outputs, rows=size)


def _check_further(where: Path, manifest: Manifest, name: str, case: Case) -> None:
    """These are run in batches, so that their number is free even where the batch is not."""
    inputs = _free_batch(manifest.inputs)
    rows = len(next((array for array in case.inputs.values() if array.ndim), ()))
    if not 0 < rows <= MOST_ROWS:
        _refuse(where, f"holds {rows} {name} rows, and 1 to {MOST_ROWS} are taken")
    _check_case(where, f"{name} rows", case, inputs, manifest.outputs, rows=rows)


def _check_case(
    where: Path, what: str, case: Case, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], *, rows: int
) -> None:
    try:
        check_inputs(case.inputs, inputs)
    except ExportError as error:
        _refuse(where, f"{what}: {error.message}")
    if sorted(case.outputs) != sorted(spec.name for spec in outputs):
        _refuse(where, f"{what} has other outputs than the manifest")
    for name, array in {**case.inputs, **case.outputs}.items():
        if not array.ndim or len(array) != rows or not array.size:
            _refuse(where, f"{what}: '{name}' has shape {list(array.shape)}")


def _check_trajectory(where: Path, walk: ReferenceTrajectory) -> None:
    if walk.labels.dtype.kind not in "iu" or walk.noise.dtype.kind != "f" or walk.noise.ndim < 2 or not walk.noise.size:
        _refuse(where, "holds a trajectory of other types, or an empty one")
    if not np.isfinite(walk.noise).all():
        _refuse(where, "holds a trajectory whose noise is not finite")
    fits = walk.labels.shape == walk.noise.shape[:1] and walk.states.shape[1:] == walk.noise.shape
    if not fits or not len(walk.states):
        _refuse(where, "holds a trajectory whose noise, labels and states do not fit each other")


def _check_walked(where: Path, manifest: Manifest, walk: ReferenceTrajectory) -> None:
    """What the sampler feeds the model at a step must fit it, or a damaged file would look like a failing runtime."""
    if manifest.sampler is None:
        return
    step = {"x": walk.noise.astype(np.float32), "t": np.zeros(len(walk.noise), np.float32)}
    try:
        check_inputs({**step, "y": walk.labels.astype(np.int64)}, _free_batch(manifest.inputs))
    except ExportError as error:
        _refuse(where, f"holds a trajectory that does not fit the model: {error.message}")


def _free_batch(inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    return tuple(replace(spec, shape=("batch", *spec.shape[1:])) for spec in inputs)


def _refuse(where: Path, problem: str) -> NoReturn:
    raise ExportError(f"{where} {problem}", hint=_HINT)
