"""A form changes no decision: what engines are built from replaces the same tokens as the loop that defines it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from dsr_export.register_ops.replacement import replace_outliers
from graphs.artifacts import LoweredModel, OptimizedModel, TypedModel
from graphs.files import RUNTIME_GRAPH, save_model
from graphs.forms import FORMS, form_of, take_form
from graphs.mixed_precision.emulate import emulate_low
from graphs.mixed_precision.islands import PrecisionPolicy
from graphs.mixed_precision.typed import assign_precision
from graphs.precisions import Precision
from graphs.targets import TARGETS
from tests.graphs.optimizing import infer
from tests.graphs.rewrites.engine import test_part_gates, test_rotate_together
from tests.graphs.rewrites.runtime import test_attend_at_once
from tests.graphs.rewrites.test_lower_replace_outliers import adversarial_inputs
from tests.graphs.symbolic import lowered, replace_outliers_model, session

DIM = 16


@pytest.mark.parametrize("rule", [("absolute", 6.0), ("median", 2.0), ("sigma", 1.5)], ids=lambda rule: rule[0])
@pytest.mark.parametrize("choice", ["nearest", "mask"])
@pytest.mark.parametrize("exclude", [(), (0, 5)])
def test_the_engine_form_replaces_the_same_tokens(
    rule: tuple[str, float], choice: str, exclude: tuple[int, ...], tmp_path: Path, rng: np.random.Generator
) -> None:
    registers = rng.standard_normal((4, DIM)).astype(np.float32)
    attributes = {"rule": rule[0], "threshold": rule[1], "rounds": 2, "choice": choice, "exclude": list(exclude)}
    graph = lowered(replace_outliers_model(33, registers, **attributes), tmp_path)[0]
    path = tmp_path / "form.onnx"
    reports = {
        each.name: each.count for each in take_form(TypedModel(path=graph.path, precision="fp32"), path, "engine")
    }
    assert reports["count_below"] == (2 if rule[0] == "median" else 0)
    assert reports["sum_similarities"] == (1 if choice == "nearest" else 0)
    assert "TopK" not in {node.op_type for node in onnx.load(path).graph.node}
    runs = session(LoweredModel(path=path))
    for x in adversarial_inputs(rng, 33, registers):
        arguments = (*rule, 2, choice, list(exclude))
        wanted = replace_outliers(torch.from_numpy(x), torch.from_numpy(registers), None, None, None, *arguments)
        np.testing.assert_array_equal(runs.run(None, {"x": x})[0], wanted.numpy())


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_narrow_graph_takes_its_form(precision: Precision, tmp_path: Path, rng: np.random.Generator) -> None:
    """BF16, which numpy has no type for, as FP16."""
    registers = rng.standard_normal((4, DIM)).astype(np.float32)
    replacing = replace_outliers_model(5, registers, rule="median", threshold=2.0, rounds=2, choice="nearest")
    onnx.save(lowered_behind_a_product(lowered(replacing, tmp_path)[0].path), tmp_path / "replacing.onnx")
    onnx.save(test_part_gates.example(), tmp_path / "gated.onnx")
    onnx.save(test_rotate_together.example(), tmp_path / "turned.onnx")
    counts: Counter[str] = Counter()
    for name, width in (("replacing", DIM), ("gated", 4), ("turned", 8)):
        source, path = OptimizedModel(path=tmp_path / f"{name}.onnx"), tmp_path / f"{name}-typed.onnx"
        typed, _ = assign_precision(source, path, precision, PrecisionPolicy(narrow_products=True))
        reports = take_form(typed, tmp_path / "form.onnx", "engine")
        counts.update({each.name: each.count for each in reports})
        x = {"x": rng.standard_normal((3, 5, width)).astype(np.float32)}
        before, after = (infer(emulate_low(onnx.load(each)), x)[0] for each in (typed.path, tmp_path / "form.onnx"))
        error = {"fp16": 2**-9, "bf16": 2**-6}[precision]
        np.testing.assert_allclose(after, before, rtol=error, atol=error * np.abs(before).max())
    expected = {"rotate_together": 1, "part_gates": 1, "count_below": 2, "sum_similarities": 1, "replace_narrow": 1}
    expected |= {"project_tokens_first": 0}
    assert counts == expected


def lowered_behind_a_product(path: Path) -> onnx.ModelProto:
    """What the model at `path` replaces comes from a node that computes in the type around."""
    model = onnx.load(path)
    for node in model.graph.node:
        node.input[:] = ["tokens" if name == "x" else name for name in node.input]
    model.graph.node.insert(0, onnx.helper.make_node("MatMul", ["x", "two"], ["tokens"], "block/MatMul"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(2 * np.eye(DIM, dtype=np.float32), "two"))
    return model


@pytest.mark.parametrize("matches", [True, False], ids=["another", "the same"])
def test_what_onnx_runtime_runs_lies_over_the_weights_of_the_portable_graph(
    matches: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    """In one file, where weights have one; and there is none where both graphs are the same."""
    for limit in ("EXTERNAL_ABOVE", "INLINE_BELOW"):
        monkeypatch.setattr(f"graphs.files.{limit}", 200)
    attention = test_attend_at_once.example(*(() if matches else test_attend_at_once.MASKED))
    source = save_model(with_large_weight(attention), tmp_path / "typed.onnx")
    path, own = tmp_path / "model.onnx", tmp_path / RUNTIME_GRAPH
    reports = take_form(TypedModel(path=source, precision="fp32"), path, "onnxruntime")
    assert {each.name: each.count for each in reports}["attend_at_once"] == matches
    assert own.exists() == matches == (tmp_path / "model.onnx.data").exists()
    assert not (tmp_path / f"{RUNTIME_GRAPH}.data").exists()
    (tmp_path / "typed.onnx.data").unlink()
    onnx.checker.check_model(path)
    if matches:
        x = {name: rng.standard_normal((2, 5 if name == "q" else 7, 8)).astype(np.float32) for name in "qkv"}
        made = [session(LoweredModel(path=each)).run(None, x)[0] for each in (path, own)]
        np.testing.assert_allclose(made[1], made[0], rtol=1e-5, atol=1e-6)


def with_large_weight(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, its output multiplied by a weight that is large enough to lie beside it."""
    out = model.graph.output[0]
    width = out.type.tensor_type.shape.dim[2].dim_value
    for node in model.graph.node:
        node.output[:] = ["inner" if name == out.name else name for name in node.output]
    model.graph.node.append(onnx.helper.make_node("MatMul", ["inner", "large"], [out.name], "attn.proj/MatMul"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(width, dtype=np.float32), "large"))
    return model


def test_every_target_has_a_form() -> None:
    forms = {name: form_of(target) for name, target in TARGETS.items()}
    assert set(forms.values()) == set(FORMS)
    assert [name for name, form in forms.items() if form == "onnxruntime"] == ["onnxruntime"]
