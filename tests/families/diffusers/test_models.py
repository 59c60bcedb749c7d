"""Adapters of diffusers transformers: diffusers' numbers, constant tables, examples and options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from dsr_export.backends.onnxruntime import OnnxRuntimeRunner
from dsr_export.errors import ExportError
from dsr_export.families import FamilyRequest
from dsr_export.families.diffusers.files import open_folder
from dsr_export.families.diffusers.models import load
from dsr_export.families.diffusers.positions import flux_ids, rotary_tables, sincos_table
from dsr_export.parity.metrics import compare
from dsr_export.parity.tolerances import TOLERANCES
from graphs.files import load_model
from graphs.lowering import lower, optimize
from graphs.mixed_precision.islands import PrecisionPolicy
from graphs.mixed_precision.typed import assign_precision
from tests.families.diffusers.folders import (
    CONFIGS,
    DIT,
    FLUX,
    PIXART,
    SD3,
    expected_output,
    from_folder,
    run_example,
    saved,
    saved_subject,
)


@pytest.mark.parametrize("class_name", CONFIGS)
def test_a_folder_gives_the_numbers_of_diffusers(class_name: str, tmp_path: Path) -> None:
    inputs, out = run_example(saved_subject(class_name, tmp_path), 3)
    expected = expected_output(class_name, inputs)
    assert expected.std() > 0.01
    np.testing.assert_allclose(out, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("class_name", [PIXART, SD3])
def test_other_latent_sizes_have_their_own_positions(class_name: str, tmp_path: Path) -> None:
    sizes = {"latent_height": 12, "latent_width": 10}
    inputs, out = run_example(saved_subject(class_name, tmp_path, options=sizes))
    assert out.shape[2:] == (12, 10)
    expected = expected_output(class_name, inputs)
    np.testing.assert_allclose(out, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_rotary_tables_are_those_of_flux() -> None:
    pytest.importorskip("diffusers", reason="the models extra is not installed")
    from diffusers.models.transformers.transformer_flux import FluxPosEmbed

    ids = flux_ids(64, 48, 7)
    expected = FluxPosEmbed(theta=10000, axes_dim=[16, 56, 56])(ids)
    for table, other in zip(rotary_tables(ids, (16, 56, 56)), expected, strict=True):
        assert table.dtype == torch.float32
        torch.testing.assert_close(table, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("base", "scale"), [(64, 2), (32, 1), (16, 1.0)])
def test_sincos_tables_are_those_of_diffusers(base: int, scale: float) -> None:
    pytest.importorskip("diffusers", reason="the models extra is not installed")
    from diffusers.models.embeddings import get_2d_sincos_pos_embed

    expected = get_2d_sincos_pos_embed(72, (64, 40), base_size=base, interpolation_scale=scale, output_type="pt")
    table = sincos_table(72, 64, 40, base=base, scale=scale)
    torch.testing.assert_close(table[0], expected.float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("class_name", CONFIGS)
def test_nothing_is_computed_in_float64(class_name: str, tmp_path: Path) -> None:
    """Seen before the exporter folds constants, which it does for small tables only."""
    subject = saved_subject(class_name, tmp_path)
    example = tuple(torch.from_numpy(value) for value in subject.example(2, seed=0).values())
    program = torch.export.export(subject.module, example)
    made = [node.meta["val"] for node in program.graph.nodes if isinstance(node.meta.get("val"), Tensor)]
    assert len(made) > 50 and torch.float64 not in {value.dtype for value in made}


@pytest.mark.slow
@pytest.mark.parametrize("class_name", [FLUX, SD3])
def test_the_graph_has_no_double_and_agrees(class_name: str, tmp_path: Path) -> None:
    subject = saved_subject(class_name, tmp_path / "model")
    traced = subject.trace(tmp_path / "traced.onnx")
    graph = load_model(traced.path).graph
    types = [v.type.tensor_type.elem_type for v in graph.value_info] + [t.data_type for t in graph.initializer]
    assert onnx.TensorProto.DOUBLE not in types
    casts = [a.i for node in graph.node for a in node.attribute if node.op_type == "Cast" and a.name == "to"]
    assert onnx.TensorProto.DOUBLE not in casts
    optimized, _ = optimize(lower(traced, tmp_path / "lowered.onnx")[0], tmp_path / "optimized.onnx")
    for precision in ("fp32", "fp16"):
        path = tmp_path / f"{precision}.onnx"
        typed, _ = assign_precision(optimized, path, precision, PrecisionPolicy())
        inputs = subject.example(3, seed=1)
        with subject.reference() as reference, OnnxRuntimeRunner(typed.path, inputs=subject.inputs) as runner:
            found = compare(reference.infer(inputs)["out"], runner.infer(inputs)["out"])
        assert found.within(TOLERANCES[precision]), found


class TestExamples:
    @pytest.mark.parametrize("class_name", CONFIGS)
    def test_times_have_the_scheduler_s_scale(self, class_name: str, tmp_path: Path) -> None:
        inputs = saved_subject(class_name, tmp_path).example(64, seed=0)
        times = inputs["t" if class_name == DIT else "timestep"]
        scale = 1 if class_name == FLUX else 1000
        assert times.dtype == np.float32 and 0.8 * scale < times.max() <= scale and times.min() < 0.2 * scale

    def test_masks_are_prefixes_and_never_empty(self, tmp_path: Path) -> None:
        mask = saved_subject(PIXART, tmp_path).example(32, seed=0)["encoder_attention_mask"]
        assert set(np.unique(mask)) == {0.0, 1.0} and (mask[:, 0] == 1).all()
        assert (np.diff(mask, axis=1) <= 0).all()

    def test_rows_do_not_depend_on_the_batch(self, tmp_path: Path) -> None:
        subject = saved_subject(FLUX, tmp_path)
        many, few = subject.example(3, seed=0), subject.example(2, seed=0)
        for name, value in few.items():
            np.testing.assert_array_equal(value, many[name][:2])


class TestOptions:
    @pytest.mark.parametrize(
        ("class_name", "options", "message"),
        [
            (SD3, {"latent_heigth": 8}, "no option 'latent_heigth'"),
            (SD3, {"num_layers": 8}, "no option 'num_layers'"),
            (SD3, {"latent_height": 9}, "patches of 2 do not divide"),
            (SD3, {"latent_height": 16}, "more than 6 patches"),
            (SD3, {"text_tokens": 0}, "at least 1"),
            (SD3, {"text_tokens": 1.5}, "no whole number"),
            (DIT, {"latent_height": 12}, "square"),
            (FLUX, {"latent_width": 7}, "packed 2x2"),
        ],
    )
    def test_bad_ones_are_refused(self, class_name: str, options: dict[str, Any], message: str, tmp_path: Path) -> None:
        with pytest.raises(ExportError, match=message):
            saved_subject(class_name, tmp_path, options=options)

    def test_misspelt_ones_have_a_suggestion(self, tmp_path: Path) -> None:
        with pytest.raises(ExportError) as caught:
            saved_subject(SD3, tmp_path, options={"latent_heigth": 8})
        assert "did you mean 'latent_height'?" in str(caught.value.hint)

    def test_sizes_of_a_free_model_are_needed(self) -> None:
        with pytest.raises(ExportError, match="needs num_layers, num_attention_heads, attention_head_dim"):
            load(FamilyRequest(model="sd3", random_weights=0))

    @pytest.mark.parametrize(("pipeline", "tokens"), [("PixArtSigmaPipeline", 300), ("PixArtAlphaPipeline", 120)])
    def test_prompts_of_pixart_are_as_long_as_its_pipeline_s(self, pipeline: str, tokens: int, tmp_path: Path) -> None:
        saved(PIXART, tmp_path / "transformer")
        (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
        subject = from_folder(open_folder(tmp_path))
        assert subject.inputs[1].shape == ("batch", tokens, 24)
