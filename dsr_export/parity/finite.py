"""NaN and infinities in outputs: whose they are. The reference is asked first; what it has none of, our graph made."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.backends.onnxruntime import OnnxRuntimeRunner
from dsr_export.errors import ExportError
from dsr_export.parity.golden.vectors import Golden
from dsr_export.parity.metrics import same_kinds
from graphs.artifacts import OptimizedModel, TensorSpec
from graphs.observe.probes import FAULTS, add_fault_probes

Array = npt.NDArray[Any]
INFINITE, NAN = 1, 2  # what a fault probe reports


def check_reference(golden: Golden) -> None:
    """Every output of the reference holds numbers, and every state of its trajectory nothing else.

    NaN or infinities in a part of an output are the model's own answer (an attention row with nothing to attend to),
    and ours must be the same. Where there is nothing else, there is nothing to compare.

    Raises:
        ExportError: the reference makes too little; the message says that the model itself does, and where.
    """
    for size, case in golden.cases.items():
        for name, values in case.outputs.items():
            if not np.isfinite(values).any():
                where = f"all of its output '{name}' for the example inputs at batch {size}"
                raise _broken_reference(golden, where, values)
    if golden.trajectory is not None:
        for step, state in enumerate(golden.trajectory.states):
            if not np.isfinite(state).all():
                raise _broken_reference(golden, f"the state after sampling step {step + 1}", state)


def _broken_reference(golden: Golden, where: str, values: Array) -> ExportError:
    bad = values.size - np.count_nonzero(np.isfinite(values))
    kind = "nan" if np.isnan(values).any() else "inf"
    return ExportError(
        f"the FP32 reference itself ({golden.reference}) makes {kind} in {where} ({bad} of {values.size} values)",
        hint="no export can repair this: check the checkpoint, and that the model takes such inputs (an attention row "
        "with nothing to attend to, or a division by zero, gives nan in PyTorch too); the first rows, which the "
        "smallest batch is made of, must give numbers",
    )


def check_graph(
    model: Path,
    inputs: Mapping[str, Array],
    outputs: Mapping[str, Array],
    specs: Sequence[TensorSpec],
    reference: Mapping[str, Array] | None = None,
) -> None:
    """Every one of `outputs`, made by the FP32 graph at `model` from `inputs`, is finite where the reference's are.

    Without `reference`, its outputs are known to be finite.

    Raises:
        ExportError: one is not, and the message names the first tensor of the graph that is of its kind; or it has
            another shape than the reference's.
    """
    for name, values in outputs.items():
        if reference is not None:
            _check_shape(name, values, reference[name])
    bad = {name: values[found] for name, values in outputs.items() if (found := _own(name, values, reference)).any()}
    if not bad:
        return
    wanted = NAN if any(np.isnan(values).any() for values in bad.values()) else INFINITE
    first = _first_fault(model, dict(inputs), wanted, specs)
    output = next(iter(bad))
    raise ExportError(
        f"the FP32 graph makes {'nan' if wanted == NAN else 'inf'} in '{first or output}', and by it in the output "
        f"'{output}', where the reference has none",
        hint="this is a fault of the export and not of the model; please report it with the lines of that module",
    )


def _check_shape(name: str, values: Array, truth: Array) -> None:
    if values.shape != truth.shape:
        made, wanted = list(values.shape), list(truth.shape)
        raise ExportError(
            f"the FP32 graph makes the output '{name}' in the shape {made}, the reference in {wanted}",
            hint="a program that says other shapes than it makes was changed by hand, or damaged: export it again; "
            "a module that is exported so is a fault of the export, please report it",
        )


def _own(name: str, values: Array, reference: Mapping[str, Array] | None) -> Array:
    """Where `values` are NaN or infinite by themselves."""
    return ~np.isfinite(values) if reference is None else ~np.isfinite(values) & ~same_kinds(reference[name], values)


def _first_fault(model: Path, inputs: dict[str, Array], wanted: int, specs: Sequence[TensorSpec]) -> str | None:
    """The first tensor that holds NaN (or an infinity, where that is `wanted`), in the order of computation."""
    with tempfile.TemporaryDirectory(prefix="dsr-faults-") as folder:
        probed = Path(folder, "probed.onnx")
        names = add_fault_probes(OptimizedModel(path=model), probed)
        with OnnxRuntimeRunner(probed, inputs=specs, optimize=False) as runner:
            faults = runner.infer(inputs)[FAULTS]
    found = np.flatnonzero(faults >= wanted)
    return names[found[0]] if found.size else None
