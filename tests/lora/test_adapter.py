"""LoRA files in the forms that trainers write, and what is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from dsr_export.config import ModelRequest
from dsr_export.declarations.lora_file import LoraFile
from dsr_export.diagnosis.diagnose import model_words
from dsr_export.errors import ExportError
from dsr_export.lora.adapter import METADATA, read_adapter
from dsr_export.lora.names import placed

DOWN, UP = torch.arange(8.0).view(2, 4), torch.ones(3, 2)


def _file(folder: Path, name: str = "lora.safetensors", metadata: Any = None, **tensors: torch.Tensor) -> Path:
    named = {key.replace("__", "."): value for key, value in tensors.items()}
    told = None if metadata is None else {METADATA: json.dumps(metadata)}
    save_file(named, folder / name, metadata=told)
    return folder / name


@pytest.mark.parametrize(
    ("name", "part", "layer", "role"),
    [
        ("transformer.blocks.0.to_q.lora_A.weight", "transformer", "blocks.0.to_q", "down"),
        ("base_model.model.blocks.0.to_q.lora_B.default.weight", "transformer", "blocks.0.to_q", "up"),
        ("lora_transformer_blocks_0_to_q.lora_down.weight", "transformer", "blocks_0_to_q", "down"),
        ("blocks.0.to_q.lora.up.weight", "transformer", "blocks.0.to_q", "up"),
        ("text_encoder_2.layers.1.q.lora_A.weight", "text_encoder_2", "layers.1.q", "down"),
        ("lora_te1_text_model_q.alpha", "text_encoder", "text_model_q", "alpha"),
    ],
)
def test_names_tell_part_layer_and_role(name: str, part: str, layer: str, role: str) -> None:
    place = placed(name)
    assert place is not None and (place.part, place.layer, place.role) == (part, layer, role)


@pytest.mark.parametrize(
    ("metadata", "alpha", "gain"),
    [
        (None, None, 1.0),
        (None, 4.0, 2.0),
        ({"transformer.r": 2, "transformer.lora_alpha": 8}, None, 4.0),
        ({"transformer.lora_alpha": 8, "transformer.use_rslora": True}, None, 8 / 2**0.5),
        ({"transformer.lora_alpha": 8, "transformer.alpha_pattern": {"b": 6}}, None, 3.0),
        ({"transformer.lora_alpha": 8}, 2.0, 1.0),
    ],
)
def test_how_much_is_added_is_told_by_alpha(metadata: Any, alpha: float | None, gain: float, tmp_path: Path) -> None:
    tensors = {"transformer__a__b__lora_A__weight": DOWN.half(), "transformer__a__b__lora_B__weight": UP}
    own = {} if alpha is None else {"transformer__a__b__alpha": torch.tensor(alpha)}
    read = read_adapter(_file(tmp_path, metadata=metadata, **tensors, **own)).layers["transformer"]["a.b"]
    assert read.gain == pytest.approx(gain)
    assert read.down.dtype == torch.float32 and torch.equal(read.down, DOWN)


def test_a_config_beside_the_file_is_pefts(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 16}')
    tensors = {"base_model__model__a__lora_A__weight": DOWN, "base_model__model__a__lora_B__weight": UP}
    assert read_adapter(_file(tmp_path, "adapter_model.safetensors", **tensors)).layers["transformer"]["a"].gain == 8
    assert read_adapter(_file(tmp_path, "other.safetensors", **tensors)).layers["transformer"]["a"].gain == 1


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"a__lora_A__weight": DOWN}, "half of the layer 'a'"),
        ({"a__alpha": torch.tensor(1.0)}, "half of the layer"),
        ({"a__lora_A__weight": DOWN, "a__lora_B__weight": torch.ones(3, 5)}, "have no product"),
        ({"a__lora_A__weight": DOWN, "a__lora_B__weight": UP * torch.nan}, "NaN or infinity"),
        ({"a__lora_A__weight": DOWN, "a__lora_B__weight": UP.int()}, "is of the type torch.int32"),
        ({"a__weight": DOWN}, "is no LoRA: it holds 'a.weight'"),
        ({"a__lora_A__weight": DOWN, "a__dora_scale": UP}, "is DoRA"),
        ({"a__hada_w1_a": DOWN}, "is LoHa"),
        ({"a__lora_A__weight": DOWN, "a__lora_B__weight": UP, "a__alpha": UP.clone()}, "alpha of 'a' is no number"),
    ],
)
def test_what_is_no_plain_lora_is_refused(tensors: dict[str, torch.Tensor], reason: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=reason):
        read_adapter(_file(tmp_path, **tensors))


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"transformer.use_dora": True}, "is DoRA"),
        ({"transformer.lora_alpha": "8"}, "the alpha '8'"),
        ([1], "is no JSON object"),
    ],
)
def test_a_config_that_asks_for_more_is_refused(metadata: Any, reason: str, tmp_path: Path) -> None:
    path = _file(tmp_path, metadata=metadata, a__lora_A__weight=DOWN, a__lora_B__weight=UP)
    with pytest.raises(ExportError, match=reason):
        read_adapter(path)


def test_a_file_and_its_scale(tmp_path: Path) -> None:
    assert LoraFile.parse("a/b.safetensors") == LoraFile(Path("a/b.safetensors"))
    assert LoraFile.parse("C:/b.safetensors:-0.5") == LoraFile(Path("C:/b.safetensors"), -0.5)
    odd = tmp_path / "x:2"
    odd.touch()
    assert LoraFile.parse(str(odd)) == LoraFile(odd)
    for text in ("f:0", "f:1e9", "f:1e400"):
        with pytest.raises(ExportError, match="the scale"):
            LoraFile.parse(text)


@pytest.mark.parametrize("file", [LoraFile(Path("a")), LoraFile(Path("a"), -0.25), LoraFile(Path("a:2"))])
def test_it_is_written_as_it_is_read(file: LoraFile) -> None:
    assert LoraFile.parse(str(file)) == file


def test_the_next_command_of_a_diagnosis_names_them() -> None:
    request = ModelRequest(model_dir=Path("m"), loras=(LoraFile(Path("a"), 0.5), LoraFile(Path("b"))))
    assert model_words(request)[-4:] == ("--lora", "a:0.5", "--lora", "b")
