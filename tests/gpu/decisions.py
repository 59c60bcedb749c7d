"""Which tokens a graph replaces: its detection masks as outputs of their own."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from dsr_export.backends.base import Array, Runner
from dsr_export.bundle.reader import MODEL, Bundle
from dsr_export.parity.batch_calls import in_batches
from dsr_export.parity.golden.reader import read_golden
from dsr_export.sampling import trajectory
from dsr_export.verification.runtime_checks import golden_sampler

PREFIX = "decision_"


def deciding_model(bundle: Bundle, folder: Path) -> Path:
    """A copy of the bundle's graph that also outputs every detection mask, [batch, tokens], 0 or 1 in FP32."""
    folder.mkdir()
    model = onnx.load(bundle.file(MODEL), load_external_data=False)
    masks = [node for node in model.graph.node if _decides(node)]
    for i, node in enumerate(masks):
        name = f"{PREFIX}{i}"
        model.graph.node.append(helper.make_node("Cast", [node.output[0]], [name], name, to=TensorProto.FLOAT))
        batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, None]))
    onnx.save(model, folder / MODEL)
    for weights in bundle.path.glob(f"{MODEL}.*"):
        shutil.copyfile(weights, folder / weights.name)
    return folder / MODEL


def _decides(node: onnx.NodeProto) -> bool:
    """The comparison of norms with their limit at a site of replacement, once for each round."""
    return node.name.startswith("dsr/lower/") and node.name.rsplit("/", 1)[-1].startswith("outlier")


def decisions(runner: Runner, inputs: dict[str, Array], bundle: Bundle) -> dict[str, Array]:
    """Mask by mask, whether a token is replaced."""
    made = in_batches(runner.infer, inputs, bundle.manifest.batch_range())
    return {name: values > 0.5 for name, values in made.items() if name.startswith(PREFIX)}


def walked_inputs(bundle: Bundle, runner: Runner) -> dict[str, Array]:
    """Every input of the golden trajectory as `runner` walks it, and the largest golden batch."""
    golden = read_golden(bundle)
    seen = [dict(golden.cases[max(golden.cases)].inputs)]
    sampler = golden_sampler(bundle, golden)
    assert sampler is not None and golden.trajectory is not None

    def call(inputs: dict[str, Array]) -> Array:
        seen.append(inputs)
        return np.asarray(next(iter(runner.infer(inputs).values())))

    for _ in trajectory(call, sampler, golden.trajectory.noise, golden.trajectory.labels):
        pass
    return {name: np.concatenate([inputs[name] for inputs in seen]) for name in seen[0]}
