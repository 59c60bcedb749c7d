"""GEMMs with weights in blocks, with and without codes of their activation: plans, graphs, and numpy's results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from graphs.files import load_inferred_graph, save_graph
from graphs.quantize.emulate_codes import emulate_codes
from graphs.quantize.formats import FLOATS, FP4, FP8, INT4
from graphs.quantize.gemms import quantize_gemms
from graphs.quantize.quantizers import Activation, QuantizedGemm

INPUTS, OUTPUTS, RANK, UNIT, ACTIVATION_UNIT = 128, 24, 4, 2.0**-9, 2.0**-4
KINDS = ("int4", "nvfp4-weights", "nvfp4")


def planned(kind: str, seed: int = 0, *, shift: bool = False) -> QuantizedGemm:
    """Random codes and steps of a weight [128, 24]."""
    rng = np.random.default_rng(seed)
    form = INT4 if kind == "int4" else FP4
    steps = rng.uniform(0.01, 0.1, (INPUTS // (64 if kind == "int4" else 16), OUTPUTS)).astype(np.float16)
    if form == FP4:
        steps = FP8.nearest(steps / UNIT) * np.float32(UNIT)
    down, up = (rng.standard_normal(shape).astype(np.float16) for shape in ((INPUTS, RANK), (RANK, OUTPUTS)))
    return QuantizedGemm(
        codes=form.codes(form.nearest(rng.uniform(form.lowest, form.largest, (INPUTS, OUTPUTS)))),
        weight_steps=steps.astype(np.float32),
        activation=Activation(step=ACTIVATION_UNIT, format=FP4)
        if kind == "nvfp4"
        else Activation(step=1.0, format=FLOATS),
        bias_shift=np.arange(OUTPUTS, dtype=np.float32) if shift else None,
        unit=UNIT if form == FP4 else 1.0,
        branch=(down.astype(np.float32), up.astype(np.float32)) if kind == "nvfp4" else None,
    )


def weight(plan: QuantizedGemm) -> np.ndarray:
    """[128, 24]: what its codes stand for."""
    codes = np.asarray(plan.codes)
    steps = np.repeat(plan.weight_steps, len(codes) // len(plan.weight_steps), axis=0)
    return np.asarray(codes.astype(np.float32) * steps, np.float64)


def product(x: np.ndarray, plan: QuantizedGemm) -> np.ndarray:
    """Of the GEMM without its bias, written out."""
    values = x
    if plan.activation is not None and plan.activation.format == FP4:
        blocks = x.reshape(*x.shape[:-1], -1, 16)
        scale = np.abs(blocks).max(axis=-1, keepdims=True) / np.float32(6) / np.float32(ACTIVATION_UNIT)
        step = scale.astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * np.float32(ACTIVATION_UNIT)
        even = np.clip(blocks / np.where(step == 0, 1, step), -6, 6)
        values = (even.astype(ml_dtypes.float4_e2m1fn).astype(np.float32) * step).reshape(x.shape)
    beside = 0 if plan.branch is None else x.astype(np.float64) @ plan.branch[0] @ plan.branch[1]
    shift = 0 if plan.bias_shift is None else plan.bias_shift
    return np.asarray(values.astype(np.float64) @ weight(plan) + beside + shift)


def model(path: Path, body: str, shape: Sequence[int | str] = ("N", 5, INPUTS), turn: Sequence[int] = ()) -> Path:
    """x times constants: w and w2 [128, 24], wt [24, 64], b [24]. Nodes are named `fc<i>/<op>`.

    The output has the axes of x in the order `turn`."""
    made = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 20]> g (float[N] x) => (float[N] out) {{ {body} }}'
    )
    rng = np.random.default_rng(9)
    arrays = {
        "w": rng.standard_normal((INPUTS, OUTPUTS)),
        "w2": rng.standard_normal((INPUTS, OUTPUTS)),
        "wt": rng.standard_normal((OUTPUTS, INPUTS)),
        "b": np.linspace(-1, 1, OUTPUTS),
    }
    used = {name for node in made.graph.node for name in node.input}
    made.graph.initializer.extend(
        numpy_helper.from_array(a.astype(np.float32), n) for n, a in arrays.items() if n in used
    )
    made.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", 1, shape))
    turned = [shape[axis] for axis in turn or range(len(shape))]
    made.graph.output[0].CopyFrom(helper.make_tensor_value_info("out", 1, [*turned[:-1], OUTPUTS]))
    for i, node in enumerate(made.graph.node):
        node.name = f"fc{i}/{node.op_type}"
    onnx.save(made, path)
    return path


def quantised(source: Path, plans: Mapping[str, QuantizedGemm]) -> Path:
    graph = load_inferred_graph(source)
    assert quantize_gemms(graph, plans) == list(plans)
    return save_graph(graph, source.with_name("q.onnx"))


def run(path: Path, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    emulated = emulate_codes(onnx.load(path), path.parent).SerializeToString()
    session = onnxruntime.InferenceSession(emulated, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def inputs(*shape: int) -> np.ndarray:
    values = np.random.default_rng(3).standard_normal(math.prod(shape)).reshape(shape)
    values[..., 3] *= 20
    return values.astype(np.float32)
