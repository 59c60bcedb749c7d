"""Other quantisers: ONNX Runtime's in this process, ModelOpt's in an interpreter that has it.

ModelOpt pins other versions of onnx and ONNX Runtime, so it never shares an environment with this package.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import onnx

from tests.comparisons.calls import HeldOut

Array = np.ndarray
Make = Callable[[Path, Path, Path], None]
"""FP32 graph, npz of calibration rows, where the quantised graph goes."""
METHODS = ("max", "entropy")  # ModelOpt's names
SCRIPT = Path(__file__).with_name("modelopt_script.py")
TORCH_SCRIPT = SCRIPT.with_name("modelopt_torch_script.py")
ROOT = SCRIPT.parents[2]
MOST_ROWS = 8  # of one call of ONNX Runtime's calibrators


def all_peers(python: str) -> Mapping[str, Make]:
    """Every peer by name; `python` is the interpreter with ModelOpt."""
    onnx_runtime = {
        f"ONNX Runtime {method}": partial(onnxruntime_static, method=method)
        for method in ("MinMax", "Entropy", "Percentile")
    }
    weights = partial(onnxruntime_static, method="MinMax", weights_only=True)
    modelopt = {f"ModelOpt {method}": partial(modelopt_int8, python=python, method=method) for method in METHODS}
    return {**onnx_runtime, "ONNX Runtime MinMax, weight GEMMs only": weights, **modelopt}


def onnxruntime_static(source: Path, rows: Path, out: Path, *, method: str, weights_only: bool = False) -> None:
    """`quantize_static`: Q/DQ, symmetric INT8, weights per channel, MatMul and Gemm.

    Its default quantises the products of two activations too (attention's); `weights_only` leaves these out.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    with contextlib.redirect_stdout(sys.stderr):  # it prints how far it is
        quantize_static(
            str(source),
            str(out),
            _Reader(rows),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["MatMul", "Gemm"],
            nodes_to_exclude=_products_of_activations(source) if weights_only else [],
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=getattr(CalibrationMethod, method),
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
        )


def _products_of_activations(source: Path) -> list[str]:
    graph = onnx.load(source, load_external_data=False).graph
    constants = {tensor.name for tensor in graph.initializer}
    return [node.name for node in graph.node if node.op_type == "MatMul" and node.input[1] not in constants]


class _Reader:
    """What `quantize_static` takes: calls one after another, then None; of equal size, or its histograms fail."""

    def __init__(self, rows: Path) -> None:
        with np.load(rows) as arrays:
            values = dict(arrays)
        count = len(next(iter(values.values())))
        size = max(size for size in range(1, MOST_ROWS + 1) if count % size == 0)
        self._calls = iter([{k: v[i : i + size] for k, v in values.items()} for i in range(0, count, size)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._calls, None)


def modelopt_int8(source: Path, rows: Path, out: Path, *, python: str, method: str) -> None:
    """`modelopt.onnx.quantization` with its own choice of nodes. Raises RuntimeError with the reason it gives."""
    _quantised(source, rows, out, method, python=python)


def modelopt_fp8(source: Path, rows: Path, out: Path, *, python: str, method: str) -> None:
    """The same in FP8: E4M3 with one range for each activation, a scale for each output channel of a weight."""
    _quantised(source, rows, out, method, "fp8", python=python)


def modelopt_torch_fp8(name: str, rows: Path, held: HeldOut, folder: Path, *, python: str, own: bool) -> list[Array]:
    """What `modelopt.torch.quantization` makes of the held-out cases with `FP8_DEFAULT_CFG`: one E4M3 scale for each
    weight and each activation, in the PyTorch module called `name`, its arithmetic else in FP32.

    With its `own` choice of layers, or else with GEMMs of tokens in blocks alone, as ours are. Raises as
    `modelopt_int8`.
    """
    asked, answered = folder / "asked.npz", folder / "answered.npz"
    np.savez(asked, **{f"{i}/{key}": value for i, (fed, _) in enumerate(held.cases) for key, value in fed.items()})
    _in_its_interpreter(python, TORCH_SCRIPT, name, rows, asked, answered, "own" if own else "blocks")
    with np.load(answered) as arrays:
        return [arrays[str(i)] for i in range(len(held.cases))]


def _quantised(source: Path, rows: Path, out: Path, *asked: str, python: str) -> None:
    """Of a copy: ONNX 1.21, which ModelOpt pins, refuses weights in a file that has a second name."""
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        for path in source.parent.glob(f"{source.name}*"):
            shutil.copyfile(path, Path(folder) / path.name)
        _in_its_interpreter(python, SCRIPT, Path(folder) / source.name, rows, out, *asked)


def _in_its_interpreter(python: str, script: Path, *arguments: str | Path) -> None:
    command = [python, str(script), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise RuntimeError(lines[-1] if lines else f"exit code {done.returncode}")
