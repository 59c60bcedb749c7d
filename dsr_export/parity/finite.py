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
from dsr_export.parity.golden import Golden
from graphs.artifacts import OptimizedModel, TensorSpec
from graphs.probes import FAULTS, add_fault_probes

Array = npt.NDArray[Any]
INFINITE, NAN = 1, 2  # what a fault probe reports


def check_reference(golden: Golden) -> None:
    """Every output of the reference is finite.

    Raises:
        ExportError: one is not; the message says that the model itself makes it, and where.
    """
    for size, case in golden.cases.items():
        for name, values in case.outputs.items():
            _check_reference(golden, f"its output '{name}' for the example inputs at batch {size}", values)
    if golden.trajectory is not None:
        for step, state in enumerate(golden.trajectory.states):
            _check_reference(golden, f"the state after sampling step {step + 1}", state)


def _check_reference(golden: Golden, where: str, values: Array) -> None:
    bad = values.size - np.count_nonzero(np.isfinite(values))
    if bad:
        kind = "nan" if np.isnan(values).any() else "inf"
        raise ExportError(
            f"the FP32 reference itself ({golden.reference}) makes {kind} in {where} ({bad} of {values.size} values)",
            hint="no export can repair this: check the checkpoint, and that the model takes such inputs "
            "(an attention row with nothing to attend to, or a division by zero, gives nan in PyTorch too)",
        )


def check_graph(
    model: Path, inputs: Mapping[str, Array], outputs: Mapping[str, Array], specs: Sequence[TensorSpec]
) -> None:
    """Every one of `outputs`, made by the FP32 graph at `model` from `inputs`, is finite, as the reference's are.

    Raises:
        ExportError: one is not; the message names the first tensor of the graph that is of its kind.
    """
    bad = [name for name, values in outputs.items() if not np.isfinite(values).all()]
    if not bad:
        return
    wanted = NAN if any(np.isnan(outputs[name]).any() for name in bad) else INFINITE
    first = _first_fault(model, dict(inputs), wanted, specs)
    raise ExportError(
        f"the FP32 graph makes {'nan' if wanted == NAN else 'inf'} in '{first or bad[0]}', and by it in the output "
        f"'{bad[0]}', where the reference has none",
        hint="this is a fault of the export and not of the model; please report it with the lines of that module",
    )


def _first_fault(model: Path, inputs: dict[str, Array], wanted: int, specs: Sequence[TensorSpec]) -> str | None:
    """The first tensor that holds NaN (or an infinity, where that is `wanted`), in the order of computation."""
    with tempfile.TemporaryDirectory(prefix="dsr-faults-") as folder:
        probed = Path(folder, "probed.onnx")
        names = add_fault_probes(OptimizedModel(path=model), probed)
        with OnnxRuntimeRunner(probed, inputs=specs, optimize=False) as runner:
            faults = runner.infer(inputs)[FAULTS]
    found = np.flatnonzero(faults >= wanted)
    return names[found[0]] if found.size else None
