"""Encoders of `transformers` as PyTorch's exporters write them: inserted registers against hooks on the model."""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from dsr_export.backends.onnxruntime import OnnxRuntimeRunner
from graphs.artifacts import TensorSpec, TracedModel
from graphs.foreign.brought_in import adapt, read_foreign
from graphs.lowering import lower
from graphs.retrofit.insertion import Retrofit, ShiftSites
from tests.families.encoders.cases import CASES, NEURONS, Case, image_of, inputs_of, layers_of, saved
from tests.families.encoders.hooked import layer_tokens


class _LastHidden(nn.Module):
    def __init__(self, model: Any, inputs: dict[str, Any]) -> None:
        super().__init__()
        self.model, self.inputs = model, {name: value for name, value in inputs.items() if name != "pixel_values"}

    def forward(self, image: Tensor) -> Tensor:
        return self.model(pixel_values=image, **self.inputs).last_hidden_state  # type: ignore[no-any-return]


def _expected(case: Case, model: Any, image: Tensor) -> np.ndarray[Any, Any]:
    """The model's own output, final norm included, with one register."""
    kept: list[Tensor] = []
    hook = model.register_forward_hook(lambda _, __, out: kept.append(out.last_hidden_state))
    tower = model if hasattr(model, "embeddings") else model.vision_model
    rotary = None if case.rotary is None else model.get_submodule(case.rotary)
    places: dict[str, Any] = {"layers": layers_of(model), "embeddings": tower.embeddings, "rotary": rotary}
    layer_tokens(model, inputs_of(case, image, 1), neurons=NEURONS, **places)
    hook.remove()
    return kept[0][:, :-1].numpy()


@pytest.mark.parametrize(
    ("name", "dynamo"),
    [
        ("dinov3", True),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in (
                ("clip", True),
                ("clip", False),
                ("vit", True),
                ("vit", False),
                ("mae", True),
                ("dinov3, gated", True),
            )
        ),
    ],
)
def test_inserted_registers_follow_the_hooks(name: str, dynamo: bool, tmp_path: Path) -> None:
    """Split prefixes and rotary tables (DINOv3), constant masks (ViT), a norm in front of the layers (CLIP)."""
    case = CASES[name]
    model, image = saved(case, tmp_path / "model"), image_of(case)[:1]
    model.config.mask_ratio = 0.0
    wrapped, path = _LastHidden(model, inputs_of(case, image, 0)).eval(), tmp_path / "m.onnx"
    names: dict[str, Any] = {"input_names": ["image"], "output_names": ["out"], "opset_version": 18 if dynamo else 17}
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters' own
        torch.onnx.export(wrapped, (image,), str(path), dynamo=dynamo, **names)
    sites = ShiftSites(
        neurons={layer: tuple(sorted(set(table))) for layer, table in NEURONS.items()},
        registers=1,
        scale=(1.0,),
        normal_values="zero",
    )
    made = Retrofit(adapt(read_foreign(path)), tmp_path).with_test_time_registers(sites)
    onnx.load_external_data_for_model(made, str(tmp_path))
    onnx.save(made, tmp_path / "symbolic.onnx")
    traced = TracedModel(path=tmp_path / "symbolic.onnx", sites={"ShiftRegisterNeurons": len(NEURONS)})
    lowered, _ = lower(traced, tmp_path / "lowered.onnx")
    spec = (TensorSpec(name="image", dtype="float32", shape=tuple(image.shape)),)
    with OnnxRuntimeRunner(lowered.path, inputs=spec) as runner:
        found = runner.infer({"image": image.numpy()})["out"]
    np.testing.assert_allclose(found, _expected(case, model, image), rtol=0, atol=1e-4)
