"""What an adapter adds to a model: W + scale * gain * up @ down, at every form of a layer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dsr_export.config import ModelRequest
from dsr_export.declarations.lora_file import LoraFile
from dsr_export.errors import ExportError
from dsr_export.lora.merging import merged, plan
from dsr_export.sources import find_source
from dsr_export.subject import require_module
from tests.families.diffusers.folders import original, saved


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.proj = nn.Conv2d(3, 4, 2)
        self.blocks = nn.ModuleList([nn.ModuleDict({"to_q": nn.Linear(4, 6)}) for _ in range(2)])


def _lora(path: Path, *layers: tuple[str, tuple[int, ...]], out: int = 6, rank: int = 2, size: float = 1.0) -> LoraFile:
    made = {}
    for name, down in layers:
        made[f"{name}.lora_A.weight"] = torch.randn(rank, *down) * size
        made[f"{name}.lora_B.weight"] = torch.randn(out, rank, *[1] * (len(down) - 1)) * size
    save_file(made, path)
    return LoraFile(path, 0.5)


def test_every_kind_of_layer_gets_its_product(tmp_path: Path) -> None:
    model, plain = Model(), Model()
    first = _lora(tmp_path / "a.safetensors", ("transformer.blocks.1.to_q", (4,)))
    second = _lora(tmp_path / "b.safetensors", ("lora_unet_proj", (3, 2, 2)), out=4)
    records = merged(model, plan(model, [first, second], "Model"))
    layer = plan(plain, [first], "Model")[0].layers["blocks.1.to_q"]
    wanted = plain.blocks[1]["to_q"].weight + 0.5 * layer.up @ layer.down
    torch.testing.assert_close(model.blocks[1]["to_q"].weight, wanted)
    kernel = plan(plain, [second], "Model")[0].layers["proj"]
    wanted = plain.proj.weight + 0.5 * torch.einsum("or,rihw->oihw", kernel.up[..., 0, 0], kernel.down)
    torch.testing.assert_close(model.proj.weight, wanted)
    torch.testing.assert_close(model.blocks[0]["to_q"].weight, plain.blocks[0]["to_q"].weight)
    assert [(each["file"], each["scale"], each["layers"], each["ranks"]) for each in records] == [
        ("a.safetensors", 0.5, 1, [2]),
        ("b.safetensors", 0.5, 1, [2]),
    ]


def test_a_model_is_asked_before_it_has_any_weights(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = Model()
    assert plan(model, [_lora(tmp_path / "a.safetensors", ("blocks.0.to_q", (4,)))], "Model")[0].layers


def test_what_is_for_other_parts_is_recorded(tmp_path: Path) -> None:
    layers = (("transformer.blocks.0.to_q", (4,)), ("text_encoder.q", (4,)), ("text_encoder.k", (4,)))
    model = Model()
    (record,) = merged(model, plan(model, [_lora(tmp_path / "a.safetensors", *layers)], "Model"))
    assert record["for_other_parts"] == {"text_encoder": 2} and record["layers"] == 1


@pytest.mark.parametrize("name", ["text_encoder.text_model.blocks.0.to_q", "lora_te_text_model_blocks_0_to_q"])
def test_a_text_encoder_takes_what_is_its_own(name: str, tmp_path: Path) -> None:
    file = _lora(tmp_path / "a.safetensors", (name, (4,)))
    other = _lora(tmp_path / "b.safetensors", ("transformer.blocks.0.to_q", (4,)))
    (merge,) = plan(Model(), [file, other], "Model", "text_encoder")
    assert list(merge.layers) == ["blocks.0.to_q"] and merge.record["layers"] == 1


@pytest.mark.parametrize(
    ("name", "down", "reason"),
    [
        ("blocks.2.to_q", (4,), "Model has no layer 'blocks.2.to_q'"),
        ("blocks.0.to_q", (5,), r"adds \[6, 5\] to 'blocks.0.to_q' of Model, which is \[6, 4\]"),
        ("text_encoder.q", (4,), "holds nothing for the transformer, only text_encoder"),
    ],
)
def test_an_adapter_of_another_base_is_refused(name: str, down: tuple[int], reason: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=reason):
        plan(Model(), [_lora(tmp_path / "a.safetensors", (name, down))], "Model")


def test_a_sum_that_is_infinite_is_refused(tmp_path: Path) -> None:
    model = Model()
    with pytest.raises(ExportError, match="makes 'blocks.0.to_q' infinite"):
        merged(model, plan(model, [_lora(tmp_path / "a.safetensors", ("blocks.0.to_q", (4,)), size=1e25)], "Model"))


def test_only_diffusers_folders_take_them() -> None:
    with pytest.raises(ExportError, match="merged into the transformer of a diffusers folder"):
        find_source(ModelRequest(model="digits", loras=(LoraFile(Path("a")),)))


def test_a_folder_is_another_model_with_it(tmp_path: Path) -> None:
    pytest.importorskip("diffusers", reason="needs the models extra")
    folder = saved("DiTTransformer2DModel", tmp_path / "dit")
    layer = "transformer_blocks.0.attn1.to_q"
    width = original("DiTTransformer2DModel").get_submodule(layer).weight.shape[0]
    lora = _lora(tmp_path / "a.safetensors", (f"transformer.{layer}", (width,)), out=width)
    plain, changed = (find_source(ModelRequest(model_dir=folder, loras=each)) for each in ((), (lora,)))
    assert plain.key() == {name: value for name, value in changed.key().items() if name != "loras"}
    module, other = (require_module(each.load()) for each in (plain, changed))
    assert other.provenance["loras"][0]["layers"] == 1 and "loras" not in module.provenance
    weights, others = (each.module.state_dict() for each in (module, other))
    assert [name for name in weights if not torch.equal(weights[name], others[name])] == [f"transformer.{layer}.weight"]
