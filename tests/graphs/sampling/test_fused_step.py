"""A step as one graph: what the sampler does around the model, and what the model sees of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
import pytest

from graphs.artifacts import TensorSpec
from graphs.errors import ExportError
from graphs.sampling.fused_step import COLUMNS, ROWS, fuse_step, step_inputs
from tests.graphs.optimizing import infer, parsed

Array = npt.NDArray[Any]
MODEL = """\
g (float[batch, 2, 3] x, float[batch] t, int64[batch] y) => (float[batch, CHANNELS, 3] out) {
  times = Unsqueeze(t, axes)
  moved = Add(x, times)
  shift = Gather(embedding, y)
  shifts = Unsqueeze(shift, axis)
  sum = Mul(moved, shifts)
  bent = Tanh(sum)
  out = ENDING
}
"""
ONE = {"CHANNELS": "2", "ENDING": "Identity(bent)"}
LEARNED_VARIANCE = {"CHANNELS": "4", "ENDING": "Concat<axis = 1>(bent, sum)"}


def denoiser(ending: dict[str, str] = ONE) -> onnx.ModelProto:
    text = MODEL
    for old, new in ending.items():
        text = text.replace(old, new)
    embedding = np.random.default_rng(1).standard_normal((5, 3)).astype(np.float32)
    return parsed(text, {"embedding": embedding, "axes": np.array([1, 2]), "axis": np.array([1])})


def fused(model: onnx.ModelProto, null_label: int | None) -> onnx.ModelProto:
    graph = gs.import_onnx(onnx.shape_inference.infer_shapes(model))
    fuse_step(graph, null_label)
    graph.cleanup().toposort()
    made = gs.export_onnx(graph, ir_version=10)
    onnx.checker.check_model(made, full_check=True)
    return made


def feed(rng: np.random.Generator, row: int, factors: tuple[float, ...]) -> dict[str, Array]:
    table = np.full((ROWS, COLUMNS), np.nan, np.float32)
    table[row] = factors
    return {
        "x": rng.standard_normal((3, 2, 3)).astype(np.float32),
        "y": np.array([4, 0, 2]),
        "schedule": table,
        "step": np.array([row]),
    }


@pytest.mark.parametrize("ending", [ONE, LEARNED_VARIANCE], ids=["plain", "learned_variance"])
@pytest.mark.parametrize("row", [0, 7, ROWS - 1])
def test_it_guides_and_updates_as_the_sampler(ending: dict[str, str], row: int, rng: np.random.Generator) -> None:
    model, time, keep, take, guidance, null = denoiser(ending), 0.3, 0.75, -0.5, 2.5, 1
    given = feed(rng, row, (time, keep, take, guidance))
    state, following = infer(fused(model, null), given, optimized=False)

    def predicted(labels: Array) -> Array:
        inputs = {"x": given["x"], "t": np.full(3, time, np.float32), "y": labels}
        return infer(model, inputs, optimized=False)[0][:, :2]

    conditional, without = predicted(given["y"]), predicted(np.full(3, null))
    wanted = keep * given["x"] + take * (without + guidance * (conditional - without))
    np.testing.assert_allclose(state, wanted, rtol=1e-5, atol=1e-6)
    assert following.tolist() == [row + 1]


def test_without_a_null_label_the_model_sees_each_image_once(rng: np.random.Generator) -> None:
    model = denoiser()
    given = feed(rng, 2, (0.3, 0.75, -0.5, np.nan))
    made = fused(model, None)
    inputs = {"x": given["x"], "t": np.full(3, 0.3, np.float32), "y": given["y"]}
    wanted = 0.75 * given["x"] - 0.5 * infer(model, inputs, optimized=False)[0]
    np.testing.assert_allclose(infer(made, given, optimized=False)[0], wanted, rtol=1e-5, atol=1e-6)
    assert {"rows"}.isdisjoint(dims(made))


def dims(model: onnx.ModelProto) -> set[str]:
    return {dim.dim_param for value in model.graph.value_info for dim in value.type.tensor_type.shape.dim}


def test_the_doubled_rows_are_no_batch(rng: np.random.Generator) -> None:
    """A runtime that knows two tensors for equally large may put one where the other was."""
    made = fused(denoiser(), 1)
    doubled = {"times", "moved", "bent", "sum"}
    found = {
        value.name: value.type.tensor_type.shape.dim[0].dim_param
        for value in made.graph.value_info
        if value.name in doubled
    }
    assert found == dict.fromkeys(doubled, "rows")
    assert [value.type.tensor_type.shape.dim[0].dim_param for value in made.graph.input[:2]] == ["batch"] * 2
    assert [value.name for value in made.graph.output] == ["next_x", "next_step"]


def test_what_a_step_takes() -> None:
    x = TensorSpec(name="x", dtype="float32", shape=("batch", 2, 3))
    y = TensorSpec(name="y", dtype="int64", shape=("batch",))
    t = TensorSpec(name="t", dtype="float32", shape=("batch",))
    specs = {spec.name: spec for spec in step_inputs([t, y, x])}
    assert [*specs] == ["x", "y", "schedule", "step"]
    assert (specs["x"], specs["y"], specs["schedule"].shape, specs["step"].shape) == (x, y, (ROWS, COLUMNS), (1,))
    with pytest.raises(ExportError, match="takes x, t; a step is made of one that takes x, t and y"):
        step_inputs([x, t])
