"""Adapters of a whole pipeline: those of the transformer are measured before any part is built."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dsr_export.building.build import Build
from dsr_export.building.part_configs import part_configs
from dsr_export.config import ExportConfig
from dsr_export.declarations.lora_file import LoraFile
from dsr_export.errors import ExportError
from dsr_export.pipeline import export
from dsr_export.progress import Silent
from tests.families.diffusers.folders import original
from tests.pipelines.folders import changed, pixart_folder

pytest.importorskip("diffusers", reason="the models extra is not installed")


@pytest.mark.parametrize(
    ("part", "class_name"), [("transformer", "PixArtTransformer2DModel"), ("text_encoder", "T5EncoderModel")]
)
def test_an_adapter_of_another_base_is_refused_first(
    part: str, class_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pixart_folder(tmp_path / "p")
    original("PixArtTransformer2DModel").save_pretrained(folder / "transformer")
    changed(folder / "transformer" / "config.json", caption_channels=32)
    layers = {f"{part}.nowhere": 4, "transformer.transformer_blocks.0.attn1.to_q": 48}
    lora = {f"{layer}.lora_A.weight": torch.ones(2, size) for layer, size in layers.items()}
    lora |= {f"{layer}.lora_B.weight": torch.ones(size, 2) for layer, size in layers.items()}
    save_file(lora, tmp_path / "lora.safetensors")
    config = ExportConfig(
        model_dir=folder, parts=("all",), loras=(LoraFile(tmp_path / "lora.safetensors"),), out=tmp_path / "out.dsr"
    )
    monkeypatch.setattr("dsr_export.pipeline._staged", lambda build: pytest.fail("a part was built first"))
    with pytest.raises(ExportError, match=f"{class_name} has no layer 'nowhere'"):
        export(config)
    assert not (tmp_path / "out.dsr").exists()


def test_a_text_encoder_is_given_them_and_the_autoencoder_is_not() -> None:
    lora = LoraFile(Path("a"))
    made = part_configs(ExportConfig(model_dir=Path("p"), parts=("all",), loras=(lora,)), ("text_encoder", "vae"), ())
    assert {role: each.loras for role, each in made.items()} == {"text_encoder": (lora,), "vae": ()}


def test_another_scale_is_another_build(tmp_path: Path) -> None:
    original("DiTTransformer2DModel").save_pretrained(tmp_path / "m")
    file = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(1)}, file)
    loras = ((), (LoraFile(file),), (LoraFile(file, 0.5),), (LoraFile(file), LoraFile(file)))
    keys = {Build(ExportConfig(model_dir=tmp_path / "m", loras=each), Silent()).key for each in loras}
    assert len(keys) == len(loras)
