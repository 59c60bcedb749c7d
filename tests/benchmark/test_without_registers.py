"""Graphs without registers, which have the sequence of the patches alone."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from torch import nn

from dsr_export.benchmark.without_registers import bare_variant
from dsr_export.families import load_subject
from tests.pipeline_parts import DENOISER


def _longest(path: Path) -> int:
    """The tokens of the longest sequence that is attended to."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.value_info}
    return max(shapes[node.output[0]][-1] for node in model.graph.node if node.op_type == "Softmax")


def test_a_denoiser_is_drawn_again_without_them(tmp_path: Path) -> None:
    subject = load_subject("rae-dit", random_weights=3, registers=5, **DENOISER)
    found = bare_variant(subject, tmp_path)
    assert found is not None and found.name == "bare" and found.inputs == subject.inputs
    assert _longest(found.model) == DENOISER["input_size"] ** 2


def test_a_model_without_registers_has_no_such_graph(tmp_path: Path) -> None:
    assert bare_variant(load_subject("rae-dit", random_weights=3, registers=0, **DENOISER), tmp_path) is None
    assert not any(tmp_path.iterdir())


def test_an_encoder_keeps_its_class_token_and_gets_its_registers_back(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs the models extra")
    sizes = {"image_size": 16, "patch_size": 4, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    subject = load_subject("dinov2-with-registers", random_weights=0, **sizes)
    found = bare_variant(subject, tmp_path)
    assert found is not None and _longest(found.model) == 1 + 16
    prefix = subject.module.prefix
    assert isinstance(prefix, nn.Parameter) and prefix.shape[1] == 1 + subject.dsr.encoder.registers
