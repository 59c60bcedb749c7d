"""An ONNX file by someone else: a clear error, early, whatever it holds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dsr_export.benchmark.contestants import bench
from dsr_export.building.build import Build
from dsr_export.bundle.inspection import inspect_onnx
from dsr_export.config import ExportConfig, ModelRequest
from dsr_export.errors import ExportError
from dsr_export.progress import Silent
from dsr_export.subjects.onnx_graph import load_onnx
from graphs.foreign.brought_in import adapt, foreign_inputs, read_foreign
from graphs.foreign.external_data import external_files
from graphs.foreign.index_bounds import index_bounds
from graphs.foreign.opened import read_runnable
from tests.sources.onnx_text import onnx_model


def _read(folder: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    read = read_foreign(path)
    foreign_inputs(read)
    index_bounds(read)
    return adapt(read)


def _doubling(count: int) -> onnx.ModelProto:
    def function(i: int) -> str:
        body = "b = Relu(x) y = Relu(b)" if i == count else f"b = mine.F{i + 1}(x) y = mine.F{i + 1}(b)"
        return f'<opset_import: ["": 20, "mine": 1], domain: "mine"> F{i} (x) => (y) {{ {body} }}'

    return onnx_model("out = mine.F1(x)", after=" ".join(function(i) for i in range(1, count + 1)))


def _calling_itself() -> onnx.ModelProto:
    function = '<opset_import: ["": 20, "mine": 1], domain: "mine"> F (x) => (y) { y = mine.F(x) }'
    return onnx_model("out = mine.F(x)", after=function)


def _weight(**changes: Any) -> onnx.ModelProto:
    model = onnx_model("out = MatMul(x, w)")
    weight = numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    for key, value in changes.items():
        if key == "dims":
            weight.dims[:] = value
        else:
            setattr(weight, key, value)
    model.graph.initializer.append(weight)
    return model


def _default_in_half() -> onnx.ModelProto:
    """The type of a weight stands in what a function's attribute is where the call does not say."""
    model = onnx_model(
        "out = mine.F(x)",
        after='<opset_import: ["": 20], domain: "mine"> F (x) => (y) { y = Relu(x) }',
    )
    half = helper.make_tensor("inner", TensorProto.FLOAT16, [1], [1.0])
    model.functions[0].attribute_proto.append(helper.make_attribute("weight", half))
    return model


HOSTILE: dict[str, tuple[onnx.ModelProto, str]] = {
    "functions that double": (_doubling(30), "functions make [0-9,]+ nodes"),
    "functions that double often": (_doubling(60), "functions make more than a billion nodes"),
    "a function that calls itself": (_calling_itself(), "call themselves"),
    "a default in half": (_default_in_half(), "'inner' is FLOAT16"),
    "5 GB of zeros": (
        onnx_model("s = Constant<value_ints=[1250000000]>() z = ConstantOfShape(s) m = ReduceMax(z) out = Add(x, m)"),
        "ConstantOfShape .* 1,250,000,000 elements",
    ),
    "5 GB of one row": (
        onnx_model("s = Constant<value_ints=[1,1250000000,4]>() e = Expand(x, s) m = ReduceMax(e) out = Add(x, m)"),
        "Expand .* 5,000,000,000 elements",
    ),
    "an input of 2**28": (
        onnx_model("out = Relu(x)", "(float[N,268435456] x) => (float[N,268435456] out)"),
        "inputs .* too large: 'x' has 268,435,456",
    ),
    "a batch of 2**31": (onnx_model("out = Relu(x)", "(float[2147483648,4] x) => (float[M,4] out)"), "too large"),
    "bytes that are missing": (_weight(dims=[4, 5]), r"'w' holds 64 bytes, where its shape \[4, 5\] takes 80"),
    "terabytes claimed": (_weight(dims=[2**20, 2**21]), "impossible shape"),
    "a negative shape": (_weight(dims=[-4, -4]), "impossible shape"),
    "type 99": (_weight(data_type=99), "element type 99"),
    "a tensor of nowhere": (onnx_model("out = Add(x, nowhere)"), "reads the tensor 'nowhere', which nothing before"),
    "a cycle": (onnx_model("a = Relu(b) b = Relu(a) out = Add(x, b)"), "reads the tensor 'b', which nothing before"),
    "made twice": (onnx_model("a = Relu(x) a = Tanh(x) out = Add(x, a)"), "'a' is made twice"),
    "perhaps a tensor": (onnx_model("o = Optional(x) out = OptionalGetElement(o)"), "else than tensors"),
    "no list": (onnx_model("e = SequenceEmpty() out = ConcatFromSequence<axis=1>(e)"), "else than tensors"),
    "a list": (onnx_model("s = SplitToSequence<axis=1>(x) out = ConcatFromSequence<axis=1>(s)"), "else than tensors"),
    "text": (onnx_model('s = Constant<value_string="a">() out = Relu(x)'), "holds its value as 'value_string'"),
    "no such opset": (onnx_model("out = Relu(x)"), "opset 999 and cannot be converted"),
}
HOSTILE["no such opset"][0].opset_import[0].version = 999


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_refused_early(tmp_path: Path, case: str) -> None:
    model, message = HOSTILE[case]
    with pytest.raises(ExportError, match=message) as refused:
        _read(tmp_path, model)
    assert refused.value.hint


def test_what_is_only_run_or_looked_at_is_bounded_too(tmp_path: Path) -> None:
    loop = "m = Constant<value_int=9223372036854775807>() c = Constant<value_int=1>() b = Cast<to=9>(c) "
    loop += "out = Loop(m, b, x)<body = g2 (int64 i, bool k, float[N,4] v) => (bool k2, float[N,4] w) "
    loop += "{ k2 = Identity(k) w = Relu(v) }>"
    cases = [*(HOSTILE[name] for name in ("functions that double", "5 GB of zeros", "type 99", "a cycle"))]
    cases += [(onnx_model(loop), "Loop .* may run for ever"), (_default_in_half(), "")]
    for model, message in cases:
        path = tmp_path / "m.onnx"
        path.write_bytes(model.SerializeToString())
        if not message:
            assert read_runnable(path).graph.node  # bench takes any types
            continue
        with pytest.raises(ExportError, match=message):
            bench([str(path)], ModelRequest(), batch=1, rounds=3, warmup=0, threads=1, reporter=Silent())


def test_a_negative_input_and_one_without_a_type_are_refused(tmp_path: Path) -> None:
    model = onnx_model("out = Relu(x)")
    shape = model.graph.input[0].type.tensor_type.shape
    shape.dim[1].dim_value = -3
    with pytest.raises(ExportError, match="size -3 along axis 1"):
        _read(tmp_path, model)
    shape.dim[1].dim_value = 4
    model.graph.input[0].type.tensor_type.elem_type = 99
    with pytest.raises(ExportError):
        _read(tmp_path, model)


@pytest.mark.parametrize("second", ["/dev/zero", "pipe", "w.data"])
def test_a_location_is_given_once(tmp_path: Path, second: str) -> None:
    (tmp_path / "w.data").write_bytes(bytes(64))
    os.mkfifo(tmp_path / "pipe")
    model = _weight(data_location=TensorProto.EXTERNAL)
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.external_data.add(key="location", value="w.data")
    _read(tmp_path, model)
    assert external_files(model, tmp_path) == [tmp_path / "w.data"]
    weight.external_data.insert(0, onnx.StringStringEntryProto(key="location", value=second))
    with pytest.raises(ExportError, match="repeated external data fields"):
        _read(tmp_path, model)


def test_data_beside_values_in_the_file_is_checked_too(tmp_path: Path) -> None:
    model = _weight()
    model.graph.initializer[0].external_data.add(key="location", value="../secret")
    with pytest.raises(ExportError, match="not a plain path"):
        _read(tmp_path, model)


def test_weights_of_several_names_are_said_to_be_the_cause(tmp_path: Path) -> None:
    """onnx opens no file that has several hard links, ONNX Runtime does."""
    (tmp_path / "first").write_bytes(bytes(64))
    os.link(tmp_path / "first", tmp_path / "w.bin")
    model = _weight()
    tensor = model.graph.initializer[0]
    tensor.CopyFrom(onnx.TensorProto(name="w", data_type=1, dims=[4, 4], data_location=onnx.TensorProto.EXTERNAL))
    tensor.external_data.add(key="location", value="w.bin")
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ExportError, match="hard links") as refused:
        load_onnx(tmp_path / "m.onnx", name="m", provenance={}).trace(tmp_path / "traced.onnx")
    assert "copy" in str(refused.value.hint)


def test_a_pipe_is_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.onnx")
    for read in (read_foreign, inspect_onnx):
        with pytest.raises(ExportError, match="not a regular file"):
            read(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    "constant", ["value_floats=[1.0, 2.0, 3.0]", "value_float=1.0", "value_ints=[1, 2, 3]", "value_int=1"]
)
def test_constants_of_every_form_are_tensors(tmp_path: Path, constant: str) -> None:
    index = "y" if constant.endswith("]") else "z"
    body = f"c = Constant<{constant}>() f = Cast<to=1>(c) z = Reshape(f, m) t = Gather(z, y) out = Identity(t)"
    model = onnx_model(body, "(int64[N] y) => (float[N] out)")
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1]), "m"))
    read = _read(tmp_path, model)
    (node,) = [node for node in read.graph.node if node.op_type == "Constant"]
    assert [attribute.name for attribute in node.attribute] == ["value"]
    assert list(node.attribute[0].t.dims) == ([3] if index == "y" else [])


def test_a_table_of_plain_floats_bounds_its_index(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    body = "c = Constant<value_floats=[1.0, 2.0, 3.0]>() out = Gather(c, y)"
    onnx.save(onnx_model(body, "(int64[N] y) => (float[N] out)"), path)
    assert index_bounds(read_foreign(path)) == {"y": 3}


def test_a_name_of_a_megabyte_does_not_flood_the_terminal(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="which nothing before it makes") as refused:
        _read(tmp_path, onnx_model(f"out = Add(x, {'n' * 2**20})"))
    assert len(str(refused.value)) < 5000
    assert "\x1b" not in str(ExportError("a name \x1b[2J that clears the screen"))


def test_a_model_named_in_other_letters_has_a_name(tmp_path: Path) -> None:
    onnx.save(onnx_model("out = Relu(x)"), tmp_path / "日本.onnx")
    build = Build(ExportConfig(model=str(tmp_path / "日本.onnx")), Silent())
    assert (build.name, build.out) == ("model", Path("model.dsr"))
