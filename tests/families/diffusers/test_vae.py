"""The decoders of pipelines' autoencoders, against diffusers' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest
import torch
from safetensors.torch import load_file, save_file

from dsr_export.errors import ExportError
from dsr_export.families.diffusers.files import CONFIG, STEMS
from dsr_export.families.diffusers.vae import Latents, vae_encoder_subject, vae_subject
from dsr_export.families.diffusers.vae_folder import VaeFolder
from dsr_export.families.folder_weights import weight_files
from dsr_export.subject import Subject
from graphs.files import load_inferred_graph
from graphs.foreign.small_files import read_json_object
from graphs.mixed_precision.guarded_quotients import PRODUCTS, guarded_quotients
from graphs.precisions import PRECISIONS

diffusers = pytest.importorskip("diffusers", reason="the models extra is not installed")
KL: dict[str, Any] = {
    "sample_size": 16,
    "block_out_channels": [4, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "latent_channels": 4,
    "norm_num_groups": 2,
}
DC: dict[str, Any] = {
    "latent_channels": 4,
    "attention_head_dim": 2,
    "downsample_block_type": "conv",
    "upsample_block_type": "interpolate",
    **{f"{part}_block_types": ["ResBlock", "EfficientViTBlock"] for part in ("encoder", "decoder")},
    **{f"{part}_block_out_channels": [8, 8] for part in ("encoder", "decoder")},
    **{f"{part}_qkv_multiscales": [[], [5]] for part in ("encoder", "decoder")},
    **{f"{part}_layers_per_block": [1, 1] for part in ("encoder", "decoder")},
}
CASES = {"kl": ("AutoencoderKL", KL), "dc": ("AutoencoderDC", DC)}
LATENTS = Latents(height=8, width=6, scaling_factor=0.25, shift_factor=3.0)
OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def saved(folder: Path, name: str) -> Any:
    class_name, config = CASES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(diffusers, class_name)(**config).eval()
    model.save_pretrained(folder)
    return model


def loaded(folder: Path, name: str, seed: int | None = None, made: Any = vae_subject) -> Subject:
    opened = VaeFolder(
        path=folder,
        class_name=CASES[name][0],
        config=read_json_object(folder / CONFIG),
        weights=weight_files(folder, STEMS),
    )
    return made(name, opened, LATENTS, random_weights=seed)


@pytest.mark.parametrize("name", CASES)
def test_pictures_are_those_of_diffusers(name: str, tmp_path: Path) -> None:
    model = saved(tmp_path, name)
    subject = loaded(tmp_path, name)
    given = subject.example(2, seed=1)
    with subject.reference() as runner:
        made = runner.infer(given)["image"]
    with torch.no_grad():
        wanted = model.decode(torch.from_numpy(given["z"])).sample.numpy()
    np.testing.assert_allclose(made, wanted, atol=1e-6)
    assert made.shape[1:] == subject.outputs[0].shape[1:] == (3, 16, 12)
    assert not [key for key in subject.module.state_dict() if "encoder" in key.split(".")]


@pytest.mark.parametrize("name", CASES)
def test_latents_are_those_of_diffusers(name: str, tmp_path: Path) -> None:
    model = saved(tmp_path, name)
    subject = loaded(tmp_path, name, made=vae_encoder_subject)
    given = subject.example(2, seed=1)
    with subject.reference() as runner:
        made = runner.infer(given)
    with torch.no_grad():
        own = model.encode(torch.from_numpy(given["image"]))
    wanted = {"z": own.latent_dist.mean, "log_variance": own.latent_dist.logvar} if name == "kl" else {"z": own.latent}
    assert made.keys() == wanted.keys() == {spec.name for spec in subject.outputs}
    for each, spec in zip(wanted, subject.outputs, strict=True):
        np.testing.assert_allclose(made[each], wanted[each].numpy(), atol=1e-6)
        assert made[each].shape[1:] == spec.shape[1:] == (4, 8, 6)


@pytest.mark.parametrize("made", [vae_subject, vae_encoder_subject])
def test_products_of_linear_attention_stay_in_fp32(made: Any, tmp_path: Path) -> None:
    """Nothing bounds their sums: in half precision they overflow, on latents as loud as a pipeline's."""
    saved(tmp_path, "dc")
    loaded(tmp_path, "dc", made=made).trace(tmp_path / "traced.onnx")
    graph = load_inferred_graph(tmp_path / "traced.onnx")
    found = guarded_quotients(graph, PRECISIONS["fp16"].held)
    products = [node for node in graph.nodes if node.op in PRODUCTS and ".attn" in node.name]
    computed = {node.name for node in products if not any(isinstance(each, gs.Constant) for each in node.inputs)}
    assert computed and computed <= found


def test_latents_are_as_loud_as_their_factor_says(tmp_path: Path) -> None:
    saved(tmp_path, "kl")
    z = loaded(tmp_path, "kl").example(64, seed=0)["z"]
    loudness = z.std(axis=(1, 2, 3)) * LATENTS.scaling_factor
    assert 0.4 < loudness.min() < 0.8 and 1.5 < loudness.max() < 2.3
    assert abs(float(z.mean()) - LATENTS.shift_factor) < 0.2


def test_files_with_the_names_of_before_are_read(tmp_path: Path) -> None:
    saved(tmp_path, "kl")
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    today = load_file(file)
    before = {}
    for name, tensor in today.items():
        for new, old in OLD.items():
            name = name.replace(f".{new}.", f".{old}.")
        before[name] = tensor
    assert before.keys() != today.keys()
    wanted = loaded(tmp_path, "kl").module.state_dict()
    save_file(before, file)
    found = loaded(tmp_path, "kl").module.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def test_a_folder_without_weights_needs_a_seed(tmp_path: Path) -> None:
    saved(tmp_path, "kl")
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    assert loaded(tmp_path, "kl", seed=1).provenance["random_seed"] == 1
    with pytest.raises(ExportError, match="holds no weights"):
        loaded(tmp_path, "kl")
