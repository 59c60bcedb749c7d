"""A whole step of a sampler as one graph around the model: guidance, the model, and the update of the state.

All paths of `dsr_export.sampling` are `keep * x + take * prediction`, with factors that the time alone decides. So the
graph reads a row of a table for each step, and counts the steps itself: fed with what it has just made, it needs
nothing new from outside until the last step.

For n images, and a state of any axes behind them:

- `x [n, ...]` float32, `y [n]` int64, `schedule [ROWS, 4]` float32 (columns `t`, `keep`, `take`, `guidance`),
  `step [1]` int64, the row to take;
- `next_x [n, ...]` float32, `next_step [1]` int64.

Under guidance the model sees 2 n rows: the labels, and behind them the null label (arXiv 2207.12598).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from graphs.artifacts import TensorSpec
from graphs.builders import NodeBuilder
from graphs.errors import ExportError
from graphs.names import ROOT

STATE, TIME, LABELS, TABLE, INDEX = "x", "t", "y", "schedule", "step"
NEXT_STATE, NEXT_INDEX = "next_x", "next_step"
ROWS = 1000
"""Of the table, used or not: no schedule has more steps, and an engine has one axis less to be built for."""
COLUMNS = 4


def step_inputs(model: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """What the step of a model with the inputs `model` takes. ExportError where those are no `x`, `t` and `y`."""
    given = {spec.name: spec for spec in model}
    if set(given) != {STATE, TIME, LABELS}:
        raise ExportError(
            f"the model takes {', '.join(given)}; a step is made of one that takes {STATE}, {TIME} and {LABELS}",
            hint="build without --fuse-step",
        )
    table = TensorSpec(name=TABLE, dtype="float32", shape=(ROWS, COLUMNS))
    return given[STATE], given[LABELS], table, TensorSpec(name=INDEX, dtype="int64", shape=(1,))


def fuse_step(graph: gs.Graph, null_label: int | None) -> None:
    """Makes a step of the model `graph`, whose first output is its prediction; without guidance for no `null_label`.

    The prediction may have more channels than the state: those behind are no part of it.
    """
    model = {tensor.name: tensor for tensor in graph.inputs}
    build, prediction = NodeBuilder(graph, "step", ROOT), graph.outputs[0]
    if null_label is not None:
        _name_rows(graph)
    outer = _inputs(model)
    time, keep, take, guidance = _row(build, outer)
    states, labels = outer[STATE], outer[LABELS]
    if null_label is not None:
        states, labels = _doubled(build, states, labels, null_label)
    times = build.op("Expand", [time, build.op("Shape", [labels], "count")], "times")
    for name, tensor in ((STATE, states), (LABELS, labels), (TIME, times)):
        _feed(model[name], tensor)
    made = _own_channels(build, prediction, outer[STATE])
    if null_label is not None:
        made = _guided(build, made, guidance)
    kept = build.op("Mul", [keep, outer[STATE]], "kept")
    state = build.op("Add", [kept, build.op("Mul", [take, made], "taken")], "state")
    following = build.op("Add", [outer[INDEX], build.ints("one", 1)], "following")
    graph.inputs = list(outer.values())
    graph.outputs = [_named(state, NEXT_STATE, outer[STATE]), _named(following, NEXT_INDEX, outer[INDEX])]


def _name_rows(graph: gs.Graph) -> None:
    """Inside, the first axis has twice the size: two sizes of one name would be taken for equal."""
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Variable) and tensor.shape is not None:
            tensor.shape = ["rows" if dim == "batch" else dim for dim in tensor.shape]


def _inputs(model: Mapping[str, gs.Variable]) -> dict[str, gs.Variable]:
    specs = (
        (STATE, np.float32, ["batch", *model[STATE].shape[1:]]),
        (LABELS, np.int64, ["batch"]),
        (TABLE, np.float32, [ROWS, COLUMNS]),
        (INDEX, np.int64, [1]),
    )
    return {name: gs.Variable(name, dtype, shape) for name, dtype, shape in specs}


def _row(build: NodeBuilder, outer: Mapping[str, gs.Variable]) -> list[gs.Variable]:
    """Time [1], and the three factors [1, 1], which fit a state of any rank."""
    row = build.op("Gather", [outer[TABLE], outer[INDEX]], "row", axis=0)
    parts = build.ops("Split", [row], "factors", outputs=COLUMNS, axis=1, num_outputs=COLUMNS)
    return [build.op("Reshape", [parts[0], build.ints("flat", 1)], "time"), *parts[1:]]


def _doubled(
    build: NodeBuilder, state: gs.Variable, labels: gs.Variable, null_label: int
) -> tuple[gs.Variable, gs.Variable]:
    """Each image twice, with its label and behind all of them with none."""
    null = build.op("Expand", [build.ints("null", null_label), build.op("Shape", [labels], "images")], "nulls")
    twice = [
        build.op("Concat", [each, other], role, axis=0)
        for each, other, role in ((state, state, "states"), (labels, null, "labels"))
    ]
    return twice[0], twice[1]


def _feed(inner: gs.Variable, tensor: gs.Variable) -> None:
    """Readers of the model's own input read `tensor`, which is one of ours or an input of the step."""
    tensor.dtype, tensor.shape = inner.dtype, tensor.shape or inner.shape
    for reader in list(inner.outputs):
        reader.inputs = [tensor if each is inner else each for each in reader.inputs]


def _own_channels(build: NodeBuilder, prediction: gs.Variable, state: gs.Variable) -> gs.Variable:
    channels = state.shape[1]
    if prediction.shape is None or prediction.shape[1] == channels:
        return prediction
    bounds = [build.ints("first", 0), build.ints("channels", channels), build.ints("channel_axis", 1)]
    return build.op("Slice", [prediction, *bounds], "prediction")


def _guided(build: NodeBuilder, made: gs.Variable, guidance: gs.Variable) -> gs.Variable:
    """`null + guidance * (conditional - null)`, of the two halves of the rows."""
    conditional, null = build.ops("Split", [made], "branches", outputs=2, axis=0, num_outputs=2)
    beyond = build.op("Mul", [guidance, build.op("Sub", [conditional, null], "difference")], "beyond")
    return build.op("Add", [null, beyond], "guided")


def _named(tensor: gs.Variable, name: str, like: gs.Variable) -> gs.Variable:
    tensor.name, tensor.dtype, tensor.shape = name, like.dtype, list(like.shape)
    return tensor
