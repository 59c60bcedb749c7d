"""Sites inserted into an exported graph compute what they compute in PyTorch, and what has no place says so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from dsr_export.backends.onnxruntime import OnnxRuntimeRunner
from dsr_export.backends.segmented import SegmentedRunner
from dsr_export.registers import RecursiveReplacement, TestTimeRegisters
from graphs.artifacts import TensorSpec, TracedModel
from graphs.errors import ExportError
from graphs.foreign.brought_in import adapt, read_foreign
from graphs.lowering import lower
from graphs.retrofit.insertion import ReplacementSite, Retrofit, ShiftSites
from tests.graphs.plain_vit import PlainViT, export, plain_vit

TOLERANCE = 1e-4  # FP32, reassociation only
IMAGE = (TensorSpec(name="image", dtype="float32", shape=("batch", 3, 16, 16)),)
NEURONS = {0: (3, 31), 2: (7,)}


def _retrofit(path: Path) -> Retrofit:
    return Retrofit(adapt(read_foreign(path)), path.parent)


def _image(batch: int = 3) -> np.ndarray[Any, Any]:
    return np.random.default_rng(5).standard_normal((batch, 3, 16, 16)).astype(np.float32)


def _outputs(model: onnx.ModelProto, folder: Path, sites: Mapping[str, int], feeds: np.ndarray[Any, Any]) -> list[Any]:
    """What the symbolic graph computes by definition, and what its lowering does."""
    onnx.load_external_data_for_model(model, str(folder))
    onnx.save(model, folder / "symbolic.onnx")
    assert Counter(node.op_type for node in model.graph.node if node.domain == "dsr") == Counter(sites)
    lowered, _ = lower(TracedModel(path=folder / "symbolic.onnx", sites=sites), folder / "lowered.onnx")
    with (
        SegmentedRunner(folder / "symbolic.onnx", inputs=IMAGE) as defined,
        OnnxRuntimeRunner(lowered.path, inputs=IMAGE) as static,
    ):
        return [runner.infer({"image": feeds})["out"] for runner in (defined, static)]


def _native(module: nn.Module, feeds: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        return np.asarray(module(torch.from_numpy(feeds)))


def _site(layer: int, rows: np.ndarray[Any, Any] | None = None, **changes: Any) -> ReplacementSite:
    weights = (np.zeros((1, 24), np.float32),) if rows is None else (rows,)
    settings: dict[str, Any] = {"rule": "median", "threshold": 1.1, "rounds": 2, "choice": "clip", **changes}
    return ReplacementSite(layer=layer, weights=weights, **settings)


def _replacing(module: PlainViT, *layers: int, rows: np.ndarray[Any, Any] | None = None) -> PlainViT:
    choice: Any = "clip" if rows is None else "nearest"
    registers = None if rows is None else torch.from_numpy(rows)
    made = RecursiveReplacement(rule="median", threshold=1.1, rounds=2, choice=choice, registers=registers)
    module.replacements = dict.fromkeys(layers, made)
    return module


def _shifting(module: PlainViT, neurons: Mapping[int, tuple[int, ...]], mode: Any = "zero") -> PlainViT:
    options: dict[str, Any] = {"registers": 2, "scale": (1.0, 0.5), "normal_values": mode}
    module.shifts = {layer: TestTimeRegisters(listed, **options) for layer, listed in neurons.items()}
    return module


def _shifts(neurons: Mapping[int, tuple[int, ...]] = NEURONS, mode: str = "zero") -> ShiftSites:
    return ShiftSites(neurons=neurons, registers=2, scale=(1.0, 0.5), normal_values=mode)


def _agree(made: list[Any], expected: Any, plain: Any) -> None:
    """All agree, and differ from the model without sites."""
    assert np.abs(expected - plain).max() > 100 * TOLERANCE
    for each in made:
        np.testing.assert_allclose(each, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("style", ["pre", "parallel", "sandwich", "gated", "cross", "flat", "late"])
def test_replacement_as_in_pytorch(tmp_path: Path, style: str) -> None:
    path = export(plain_vit(style), tmp_path / "m.onnx", opset=17)
    rows = np.random.default_rng(1).standard_normal((4, 24)).astype(np.float32)
    model = _retrofit(path).with_replacements([_site(0, rows, choice="nearest"), _site(2, rows, choice="nearest")])
    made = _outputs(model, tmp_path, {"ReplaceOutliers": 2}, _image())
    native = _native(_replacing(plain_vit(style), 0, 2, rows=rows), _image())
    _agree(made, native, _native(plain_vit(style), _image()))
    names = [node.name for node in model.graph.node if node.domain == "dsr"]
    assert names == ["dsr/insert/blocks.0/ReplaceOutliers", "dsr/insert/blocks.2/ReplaceOutliers"]


@pytest.mark.parametrize("style", ["pre", "parallel", "sandwich", "gated", "cross", "flat"])
@pytest.mark.parametrize("opset", [13, 20])
def test_test_time_registers_as_in_pytorch(tmp_path: Path, style: str, opset: int) -> None:
    path = export(plain_vit(style), tmp_path / "m.onnx", opset=opset)
    model = _retrofit(path).with_test_time_registers(_shifts())
    made = _outputs(model, tmp_path, {"ShiftRegisterNeurons": 2}, _image())
    native = _native(_shifting(plain_vit(style), NEURONS), _image())
    _agree(made, native, _native(plain_vit(style), _image()))


@pytest.mark.parametrize("mode", ["zero", "mean", "only_outliers", "same"])
@pytest.mark.parametrize("mlp", ["silu", "swiglu"])
def test_every_mode_on_other_mlps(tmp_path: Path, mode: str, mlp: str) -> None:
    path = export(plain_vit(mlp=mlp, norm="rms"), tmp_path / "m.onnx")
    model = _retrofit(path).with_test_time_registers(_shifts(mode=mode))
    made = _outputs(model, tmp_path, {"ShiftRegisterNeurons": 2}, _image())
    native = _native(_shifting(plain_vit(mlp=mlp, norm="rms"), NEURONS, mode), _image())
    _agree(made, native, _native(plain_vit(mlp=mlp, norm="rms"), _image()))


def test_a_static_batch_and_weights_beside_the_file(tmp_path: Path) -> None:
    path = export(plain_vit(), tmp_path / "m.onnx", batch=2)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="m.bin", size_threshold=0)
    model = _retrofit(path).with_test_time_registers(_shifts())
    external = [tensor for tensor in model.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
    assert not external  # small ones are read: shapes and axes must be known
    made = _outputs(model, tmp_path, {"ShiftRegisterNeurons": 2}, _image(2))
    _agree(made, _native(_shifting(plain_vit(), NEURONS), _image(2)), _native(plain_vit(), _image(2)))


def test_a_last_block_that_is_the_output(tmp_path: Path) -> None:
    module = plain_vit()
    module.norm = nn.Identity()
    path = export(module, tmp_path / "m.onnx")
    expected = _native(_replacing(module, 2), _image())
    made = _outputs(_retrofit(path).with_replacements([_site(2)]), tmp_path, {"ReplaceOutliers": 1}, _image())
    module.replacements = {}
    _agree(made, expected, _native(module, _image()))
    expected = _native(_shifting(module, NEURONS), _image())
    module.shifts = {}
    model = _retrofit(path).with_test_time_registers(_shifts())
    _agree(_outputs(model, tmp_path, {"ShiftRegisterNeurons": 2}, _image()), expected, _native(module, _image()))
    assert [value.name for value in model.graph.output] == ["out"]


def test_excluded_rows_and_what_is_prepended(tmp_path: Path) -> None:
    found = _retrofit(export(plain_vit("late"), tmp_path / "m.onnx"))
    assert [found.prepended_rows(layer) for layer in range(3)] == [0, 3, 0]
    model = found.with_replacements([_site(1, exclude=(0, 1, 2))])
    made = _outputs(model, tmp_path, {"ReplaceOutliers": 1}, _image())
    module = plain_vit("late")
    without = _native(_replacing(module, 1), _image())
    module.replacements[1].exclude = [0, 1, 2]
    _agree(made, _native(module, _image()), without)


def test_inserting_is_repeatable_and_leaves_the_model_alone(tmp_path: Path) -> None:
    model = adapt(read_foreign(export(plain_vit(), tmp_path / "m.onnx")))
    before = model.SerializeToString(deterministic=True)
    first, again = (Retrofit(model, tmp_path).with_test_time_registers(_shifts()) for _ in range(2))
    assert first.SerializeToString(deterministic=True) == again.SerializeToString(deterministic=True)
    assert model.SerializeToString(deterministic=True) == before


WITHOUT_PLACE: dict[str, tuple[str, Callable[[Retrofit], object], str, str]] = {
    "replacement layer": (
        "pre",
        lambda found: found.with_replacements([_site(3)]),
        r"layer 3: the graph has layers 0 to 2 \(3 blocks of \[batch, 16, 24\]: blocks.0 to blocks.2\); near misses:",
        "count the blocks",
    ),
    "neuron layer": (
        "pre",
        lambda found: found.with_test_time_registers(_shifts({7: (1,)})),
        r"layer 7: the graph has layers 0 to 2",
        "count the blocks",
    ),
    "neuron": (
        "pre",
        lambda found: found.with_test_time_registers(_shifts({1: (39, 40)})),
        r"layer 1 \(blocks.1\), neuron 40: the MLP has neurons 0 to 39",
        "another model",
    ),
    "tokens that change": (
        "late",
        lambda found: found.with_test_time_registers(_shifts()),
        r"block blocks.1 has 19 tokens where blocks.0 has 16",
        "dsr_export.registers",
    ),
}


@pytest.mark.parametrize("case", WITHOUT_PLACE)
def test_what_has_no_place_names_the_blocks(tmp_path: Path, case: str) -> None:
    style, insert, message, hint = WITHOUT_PLACE[case]
    found = _retrofit(export(plain_vit(style), tmp_path / "m.onnx"))
    with pytest.raises(ExportError, match=message) as refused:
        insert(found)
    assert hint in str(refused.value.hint)


def _edited(path: Path, edit: Callable[[onnx.GraphProto], None]) -> Path:
    """`path` with its graph changed by hand, as an exporter might have written it."""
    model = onnx.load(path)
    edit(model.graph)
    onnx.save(model, path)
    return path


def _after(graph: onnx.GraphProto, name: str, op: str, *constants: np.ndarray[Any, Any], **attributes: Any) -> None:
    """Puts a node behind the one called `name`, before all that read it."""
    place, node = next((i, node) for i, node in enumerate(graph.node) if node.name == name)
    made, node.output[0] = node.output[0], f"{node.output[0]}_before"
    names = [f"{name}/constant{i}" for i in range(len(constants))]
    graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in zip(names, constants, strict=True))
    graph.node.insert(
        place + 1, onnx.helper.make_node(op, [node.output[0], *names], [made], f"/{name}/x", **attributes)
    )


TABLE = np.zeros((16, 6), np.float32)
FIXED: dict[str, tuple[Callable[[onnx.GraphProto], None], str]] = {
    "a table": (
        lambda graph: _after(graph, "/blocks.1/attn/Transpose", "Add", TABLE),
        r"was exported for 16 tokens: '/blocks.1/attn/Transpose/constant0' \[16, 6\] has a row for each token",
    ),
    "a mask": (
        lambda graph: _after(graph, "/blocks.0/attn/MatMul", "Mul", np.ones((1, 1, 16, 16), np.float32)),
        r"constant0' \[1, 1, 16, 16\] has a row for each token",
    ),
    "a weight": (
        lambda graph: _after(graph, "/blocks.0/attn/MatMul", "MatMul", np.eye(16, dtype=np.float32)),
        "mixes the tokens by a weight of fixed size",
    ),
    "a split": (
        lambda graph: _after(graph, "/blocks.2/attn/Softmax", "Slice", *(np.array([n]) for n in (-4, 2**40, 2))),
        "cuts rows off that are not counted from the first token",
    ),
    "no rule": (
        lambda graph: _after(graph, "/blocks.0/attn/Softmax", "CumSum", np.array(3)),
        "no rule for what CumSum does",
    ),
    "an output between the blocks": (
        lambda graph: graph.output.append(
            onnx.helper.make_tensor_value_info("/blocks.0/norm2/LayerNormalization_output_0", 1, ["n", 16, 24])
        ),
        r"the output '/blocks.0/norm2/\S+' \[batch, 16, 24\] is taken from between the blocks",
    ),
}


def _count_outside(graph: onnx.GraphProto) -> None:
    """An output whose shape is computed from that of a tensor between the blocks."""
    make = onnx.helper.make_node
    graph.node.append(make("Shape", ["/blocks.0/attn/Transpose_output_0"], ["inner"], "/Shape_of_heads"))
    graph.node.append(make("ConstantOfShape", ["inner"], ["zeros"], "/Zeros"))
    graph.output.append(onnx.helper.make_tensor_value_info("zeros", 1, ["n", 4, 16, 6]))


FIXED["a count outside"] = (
    _count_outside,
    r"'zeros' was to become \[batch, 4, 16, 6\], and is \[batch, 4, 18, 6\]",
)


@pytest.mark.parametrize("case", FIXED)
def test_a_token_count_that_cannot_change_is_named(tmp_path: Path, case: str) -> None:
    edit, message = FIXED[case]
    found = _retrofit(_edited(export(plain_vit(), tmp_path / "m.onnx"), edit))
    with pytest.raises(ExportError, match=message) as refused:
        found.with_test_time_registers(_shifts())
    assert refused.value.hint


def test_an_old_opset_is_refused(tmp_path: Path) -> None:
    model = onnx.load(export(plain_vit(), tmp_path / "m.onnx", opset=13))
    model.opset_import[0].version = 10
    with pytest.raises(ExportError, match="opset 10, and sites are inserted from 11 on"):
        Retrofit(model, tmp_path)
