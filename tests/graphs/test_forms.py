"""A form changes no decision: what engines are built from replaces the same tokens as the loop that defines it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from dsr_export.registers import replace_outliers
from graphs.artifacts import LoweredModel, TypedModel
from graphs.forms import FORMS, form_of, take_form
from graphs.targets import TARGETS
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


def test_every_target_has_a_form() -> None:
    forms = {name: form_of(target) for name, target in TARGETS.items()}
    assert set(forms.values()) == set(FORMS)
    assert [name for name, form in forms.items() if form == "onnxruntime"] == ["onnxruntime"]
