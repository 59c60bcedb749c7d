"""Which layers make the output of an encoder, through which norm, and at which resolution."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from dsr_export.errors import ExportError
from dsr_export.families import load_subject
from tests.families.encoders.cases import CASES, HIDDEN, dsr_file, expected_tokens, image_of, saved


@pytest.fixture(scope="module")
def dinov3(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("dinov3")
    return saved(CASES["dinov3"], folder), folder


@pytest.mark.parametrize(
    ("options", "layers", "scale", "plus_mean"),
    [
        ({"last_layers": 2}, (1, 2), 1.0, False),
        ({"layers": "0,-1", "plus_mean": True}, (0, 2), 1.0, True),
        ({"last_layers": 3, "combine": "mean", "plus_mean": True}, (0, 1, 2), 1 / 3, True),
        ({"layers": 1}, (1,), 1.0, False),
    ],
)
def test_several_layers_make_the_output(
    dinov3: tuple[Any, Path], options: dict[str, Any], layers: tuple[int, ...], scale: float, plus_mean: bool
) -> None:
    model, folder = dinov3
    image = image_of(CASES["dinov3"])
    subject = load_subject("dinov3", checkpoint=folder, **options)
    found = expected_tokens(CASES["dinov3"], model, image)
    expected = scale * torch.stack([found[layer] for layer in layers]).sum(dim=0)
    if plus_mean:
        expected = expected + found[layers[-1]].mean(dim=1, keepdim=True)
    torch.testing.assert_close(subject.module(image), expected, rtol=0, atol=5e-5)
    assert subject.config["output_layers"] == list(layers)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": "0,3"}, "layer 3: the model has layers 0 to 2"),
        ({"layers": "1,1"}, "names a layer twice"),
        ({"layers": "a"}, "is no list of layers"),
        ({"last_layers": 4}, "last_layers is 4"),
        ({"last_layers": 1, "layers": 1}, "both layers and last_layers"),
        ({"combine": "max"}, "combine='max' is unknown"),
        ({"final_norm": "l2"}, "final_norm='l2' is unknown"),
        ({"image_size": "16x"}, "is no size"),
        ({"image_size": 18}, "not a multiple of the patch size"),
        ({"grid": "4x4"}, "for models of flat patches"),
    ],
)
def test_what_cannot_be_combined_or_sized_is_refused(
    dinov3: tuple[Any, Path], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        load_subject("dinov3", checkpoint=dinov3[1], **options)


def test_neurons_behind_the_last_output_layer_are_refused(dinov3: tuple[Any, Path], tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="the output is made of layers up to 1"):
        load_subject("dinov3", checkpoint=dinov3[1], dsr=dsr_file(tmp_path), layers=1)


def test_the_final_norm_is_the_models_own_where_asked(dinov3: tuple[Any, Path]) -> None:
    model, folder = dinov3
    image = image_of(CASES["dinov3"])
    affine = load_subject("dinov3", checkpoint=folder, final_norm="affine").module(image)
    with torch.no_grad():
        torch.testing.assert_close(affine, model(image).last_hidden_state[:, 5:], rtol=0, atol=2e-5)
    raw = load_subject("dinov3", checkpoint=folder, final_norm="none").module(image)
    torch.testing.assert_close(
        F.layer_norm(raw, (HIDDEN,), eps=1e-5), expected_tokens(CASES["dinov3"], model, image)[-1]
    )


def test_another_resolution_takes_rotary_tables_of_it(dinov3: tuple[Any, Path]) -> None:
    model, folder = dinov3
    image = torch.randn(2, 3, 24, 12, generator=torch.Generator().manual_seed(4))
    subject = load_subject("dinov3", checkpoint=folder, image_size="24x12")
    assert (subject.inputs[0].shape, subject.outputs[0].shape) == (("batch", 3, 24, 12), ("batch", 18, HIDDEN))
    torch.testing.assert_close(
        subject.module(image), expected_tokens(CASES["dinov3"], model, image)[-1], rtol=0, atol=2e-5
    )
