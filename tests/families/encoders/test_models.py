"""Encoders against plain `transformers` models with the released in-place hook, and what their folders may hold."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dsr_export.backends.onnxruntime import OnnxRuntimeRunner
from dsr_export.errors import ExportError
from dsr_export.families import FamilyRequest, entry, load_subject, subject_key
from dsr_export.families.encoders.transformers_vision import random_encoder
from dsr_export.families.encoders.vision_families import FAMILIES
from dsr_export.subject import Subject
from graphs.lowering import lower, optimize
from tests.families.released_hook import tokens_with_hooks

transformers = pytest.importorskip("transformers", reason="the models extra is not installed")

SIZES: dict[str, Any] = {
    "image_size": 16,
    "patch_size": 4,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
MLP = 64
NEURONS = {0: [3, 17, 3, 60], 2: [5]}  # an index listed twice
MODES = ("zero", "mean", "only_outliers", "same")
TOWERS = ("siglip", "dinov2")


def _model(family: str, **options: Any) -> Any:
    """A plain model with lively weights."""
    if family == "siglip":
        config = transformers.SiglipVisionConfig(**SIZES, intermediate_size=MLP, **options)
        model = transformers.SiglipVisionModel(config)
    elif family == "dinov2":
        model = transformers.Dinov2Model(transformers.Dinov2Config(**SIZES, mlp_ratio=2, **options))
    else:
        config = transformers.Dinov2WithRegistersConfig(**SIZES, mlp_ratio=2, **options)
        model = transformers.Dinov2WithRegistersModel(config)
    return _lively(model)


@torch.no_grad()
def _lively(model: Any) -> Any:
    generator = torch.Generator().manual_seed(1)
    for weight in model.parameters():
        spread = (weight.numel() // weight.shape[0]) ** -0.5 if weight.ndim > 1 else 0.3
        weight.normal_(float(weight.ndim == 1), spread, generator=generator)
    return model.eval()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    root = tmp_path_factory.mktemp("models")
    for family in ("siglip", "dinov2", "dinov2-with-registers"):
        _model(family).save_pretrained(root / family)
    return {path.name: path for path in root.iterdir()}


def _dsr(folder: Path, *, neurons: Mapping[int, Sequence[int]] = NEURONS, **values: Any) -> Path:
    lines = [f"{key} = {json.dumps(value)}" for key, value in {"kind": "test-time", **values}.items()]
    (folder / "dsr.toml").write_text("\n".join(["[encoder]", 'neurons = "n.json"', *lines]))
    (folder / "n.json").write_text(json.dumps({str(layer): list(table) for layer, table in neurons.items()}))
    return folder / "dsr.toml"


def _image(batch: int = 3) -> Tensor:
    return torch.randn(batch, 3, 16, 16, generator=torch.Generator().manual_seed(2))


def _expected(family: str, folder: Path, image: Tensor, **options: Any) -> Tensor:
    loader = transformers.SiglipVisionModel if family == "siglip" else transformers.Dinov2Model
    tower = loader.from_pretrained(folder).eval()
    tower = getattr(tower, "vision_model", tower)
    norm = tower.post_layernorm if family == "siglip" else tower.layernorm
    layers = tower.encoder.layers if family == "siglip" else tower.encoder.layer
    tokens = tokens_with_hooks(tower, image, norm=norm, layers=layers, **options)
    return tokens[:, 0 if family == "siglip" else 1 :]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scale", [[1.0], [0.5, -2.0]], ids=["one register", "two registers"])
@pytest.mark.parametrize("family", TOWERS)
def test_test_time_registers_follow_the_released_hook(
    folders: Mapping[str, Path], tmp_path: Path, family: str, mode: str, scale: list[float]
) -> None:
    dsr = _dsr(tmp_path, registers=len(scale), scale=scale, normal_values=mode)
    subject = load_subject(family, checkpoint=folders[family], dsr=dsr)
    image = _image()
    found = subject.module(image)
    expected = _expected(family, folders[family], image, neurons=NEURONS, registers=len(scale), scale=scale, mode=mode)
    assert found.shape == (3, 16, 32)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    without = load_subject(family, checkpoint=folders[family]).module(image)
    assert (found - without).abs().max() > 5e-3  # 500 times the tolerance: the edit is not lost in it


@pytest.mark.parametrize(
    "mode", [mode if mode == "mean" else pytest.param(mode, marks=pytest.mark.slow) for mode in MODES]
)
def test_onnxruntime_follows_the_released_hook(folders: Mapping[str, Path], tmp_path: Path, mode: str) -> None:
    dsr = _dsr(tmp_path, registers=2, scale=1.5, normal_values=mode)
    subject = load_subject("siglip", checkpoint=folders["siglip"], dsr=dsr)
    image = _image()
    got = _through_onnxruntime(subject, tmp_path, image)
    expected = _expected("siglip", folders["siglip"], image, neurons=NEURONS, registers=2, scale=1.5, mode=mode)
    np.testing.assert_allclose(got, expected.numpy(), rtol=0, atol=1e-4)


def _through_onnxruntime(subject: Subject, folder: Path, image: Tensor) -> np.ndarray:
    traced = subject.trace(folder / "traced.onnx")
    assert traced.sites["ShiftRegisterNeurons"] == len(NEURONS)
    graph, _ = optimize(lower(traced, folder / "lowered.onnx")[0], folder / "optimized.onnx")
    with OnnxRuntimeRunner(graph.path, inputs=subject.inputs) as runner:
        return np.asarray(runner.infer({"image": image.numpy()})["tokens"])


def test_trained_registers_and_cls_are_dropped(folders: Mapping[str, Path]) -> None:
    folder, image = folders["dinov2-with-registers"], _image()
    subject = load_subject("dinov2-with-registers", checkpoint=folder)
    model = transformers.Dinov2WithRegistersModel.from_pretrained(folder).eval()
    torch.nn.init.ones_(model.layernorm.weight)
    torch.nn.init.zeros_(model.layernorm.bias)
    with torch.no_grad():
        expected = model(image).last_hidden_state[:, 5:]
    torch.testing.assert_close(subject.module(image), expected, rtol=0, atol=1e-5)
    assert (subject.dsr.encoder.kind, subject.dsr.encoder.registers) == ("trained", 4)


def test_a_whole_siglip_model_gives_its_vision_tower(folders: Mapping[str, Path], tmp_path: Path) -> None:
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.SiglipConfig(
        text_config={**text, "vocab_size": 9, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
        vision_config={**SIZES, "intermediate_size": MLP},
    )
    whole = _lively(transformers.SiglipModel(config))
    vision = _model("siglip")
    tower = getattr(vision, "vision_model", vision)
    whole.vision_model.load_state_dict(tower.state_dict())
    whole.save_pretrained(tmp_path)
    image = _image()
    found = load_subject("siglip", checkpoint=tmp_path).module(image)
    assert torch.equal(found, load_subject("siglip", checkpoint=folders["siglip"]).module(image))


@pytest.mark.parametrize("family", ["dinov2", "dinov2-with-registers"])
def test_another_resolution_is_the_processors(folders: Mapping[str, Path], tmp_path: Path, family: str) -> None:
    """DINOv2 checkpoints are trained at 518 pixels and used at 224: positions are resampled as transformers does."""
    folder = shutil.copytree(folders[family], tmp_path / "model")
    processor = {"size": {"shortest_edge": 28}, "crop_size": {"height": 24, "width": 24}, "do_center_crop": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    subject = load_subject(family, checkpoint=folder)
    assert subject.inputs[0].shape == ("batch", 3, 24, 24)
    model = getattr(transformers, {"dinov2": "Dinov2Model"}.get(family, "Dinov2WithRegistersModel"))
    plain = model.from_pretrained(folder).eval()
    torch.nn.init.ones_(plain.layernorm.weight)
    torch.nn.init.zeros_(plain.layernorm.bias)
    image = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = plain(image).last_hidden_state[:, -36:]
    torch.testing.assert_close(subject.module(image), expected, rtol=0, atol=1e-5)
    assert load_subject(family, checkpoint=folder, image_size=16).inputs[0].shape == ("batch", 3, 16, 16)


def test_the_latent_is_normalised(folders: Mapping[str, Path], tmp_path: Path) -> None:
    mean, var = torch.randn(1, 32, 4, 4), torch.rand(32, 1, 1)
    save_file({"mean": mean, "var": var}, tmp_path / "stat.safetensors")
    options = {"checkpoint": folders["siglip"], "latent_stats": str(tmp_path / "stat.safetensors")}
    subject = load_subject("siglip", **options)  # type: ignore[arg-type]
    assert (subject.outputs[0].name, subject.outputs[0].shape) == ("z", ("batch", 32, 4, 4))
    image = _image()
    tokens = load_subject("siglip", checkpoint=folders["siglip"]).module(image)
    z = tokens.transpose(1, 2).reshape(3, 32, 4, 4)
    torch.testing.assert_close(subject.module(image), (z - mean) / torch.sqrt(var + 1e-5))
    asked = FamilyRequest(
        model="siglip", checkpoint=folders["siglip"], options={"latent_stats": options["latent_stats"]}
    )
    first = subject_key(asked)
    save_file({"mean": mean, "var": var + 1}, tmp_path / "stat.safetensors")
    assert subject_key(asked) != first


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"mean": torch.zeros(32, 4, 4)}, "holds no tensor 'var'"),
        ({"mean": torch.zeros(32), "var": torch.ones(32)}, "does not fit latents"),
        ({"mean": torch.zeros(32, 4, 5), "var": torch.ones(32, 4, 5)}, "does not fit latents"),
        ({"mean": torch.zeros(1, 1, 1), "var": -torch.ones(1, 1, 1)}, "negative"),
    ],
)
def test_latent_statistics_that_do_not_fit(
    folders: Mapping[str, Path], tmp_path: Path, tensors: dict[str, Tensor], message: str
) -> None:
    save_file(tensors, tmp_path / "stat.safetensors")
    with pytest.raises(ExportError, match=message) as caught:
        load_subject("siglip", checkpoint=folders["siglip"], latent_stats=str(tmp_path / "stat.safetensors"))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("neurons", "message"),
    [
        ({3: [0]}, r"layer 3: the model has layers 0 to 2"),
        ({1: [4, 64]}, r"layer 1, neuron 64: the MLP has neurons 0 to 63"),
    ],
)
def test_neurons_outside_the_model_are_named(
    folders: Mapping[str, Path], tmp_path: Path, neurons: dict[int, list[int]], message: str
) -> None:
    for family in TOWERS:
        with pytest.raises(ExportError, match=message) as caught:
            load_subject(family, checkpoint=folders[family], dsr=_dsr(tmp_path, neurons=neurons))
        assert "another model" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("family", "text", "message"),
    [
        ("siglip", 'kind = "trained"', "siglip has no trained registers"),
        ("dinov2-with-registers", 'kind = "none"', "has 4 trained registers"),
        ("dinov2-with-registers", 'kind = "trained"\nregisters = 5', "declares 5 trained registers"),
    ],
)
def test_a_kind_that_is_not_the_models_is_refused(
    folders: Mapping[str, Path], tmp_path: Path, family: str, text: str, message: str
) -> None:
    (tmp_path / "dsr.toml").write_text(f"[encoder]\n{text}\n")
    with pytest.raises(ExportError, match=message):
        load_subject(family, checkpoint=folders[family], dsr=tmp_path / "dsr.toml")


class TestFolders:
    """What a Hugging Face folder may lack or hold."""

    @pytest.fixture
    def folder(self, folders: Mapping[str, Path], tmp_path: Path) -> Path:
        return shutil.copytree(folders["siglip"], tmp_path / "model")

    def test_nothing_touches_the_network(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise AssertionError("a connection was tried")

        monkeypatch.setattr(socket.socket, "connect", refuse)
        assert load_subject("siglip", checkpoint=folder).module(_image()).isfinite().all()

    @pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.bool, torch.float8_e4m3fn])
    def test_codes_are_no_weights(self, folder: Path, dtype: torch.dtype) -> None:
        state = load_file(folder / "model.safetensors")
        codes = {name: value.to(dtype) if value.ndim == 2 else value for name, value in state.items()}
        save_file(codes, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ExportError, match="not floating-point weights"):
            load_subject("siglip", checkpoint=folder)

    def test_a_quantised_folder_is_named(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        config["quantization_config"] = {"quant_method": "bitsandbytes"}
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(ExportError, match=r"is quantised \(bitsandbytes\)"):
            load_subject("siglip", checkpoint=folder)

    def test_half_weights_are_computed_in_float32(self, folder: Path) -> None:
        state = load_file(folder / "model.safetensors")
        save_file({k: v.half() for k, v in state.items()}, folder / "model.safetensors", {"format": "pt"})
        module = load_subject("siglip", checkpoint=folder).module
        assert {weight.dtype for weight in module.parameters()} == {torch.float32}

    @pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
    def test_a_missing_file(self, folder: Path, name: str) -> None:
        (folder / name).unlink()
        with pytest.raises(ExportError, match=f"holds no {name}"):
            load_subject("siglip", checkpoint=folder)

    @pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
    def test_a_truncated_file(self, folder: Path, name: str) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(ExportError, match=r"no readable JSON|can't be loaded"):
            load_subject("siglip", checkpoint=folder)

    def test_a_folder_of_gguf_says_so(self, folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "model-q4.gguf")
        with pytest.raises(ExportError, match=r"model-q4\.gguf, a GGUF file, whose weights are quantised"):
            load_subject("siglip", checkpoint=folder)

    def test_missing_weights(self, folder: Path) -> None:
        state = load_file(folder / "model.safetensors")
        del state[next(key for key in state if key.endswith("layers.1.mlp.fc1.weight"))]
        save_file(state, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(ExportError, match=r"lacks 1 weights.*layers\.1\.mlp\.fc1\.weight"):
            load_subject("siglip", checkpoint=folder)

    def test_weights_of_another_shape(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 96}))
        with pytest.raises(ExportError, match=r"can't be loaded|lacks"):
            load_subject("siglip", checkpoint=folder)

    def test_weights_that_are_not_finite(self, folder: Path) -> None:
        state = load_file(folder / "model.safetensors")
        key = next(key for key in state if key.endswith("layers.1.mlp.fc1.weight"))
        state[key][0, 0] = torch.nan
        save_file(state, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(ExportError, match="NaN or Inf"):
            load_subject("siglip", checkpoint=folder)

    @pytest.mark.parametrize(
        ("kind", "hint"), [("dinov2", "build dinov2"), ("siglip2", "build siglip2"), ("bert", "build vit")]
    )
    def test_another_kind_of_model(self, folder: Path, kind: str, hint: str) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "model_type": kind}))
        with pytest.raises(ExportError, match=f"type '{kind}'") as caught:
            load_subject("siglip", checkpoint=folder)
        assert hint in str(caught.value.hint)

    def test_the_folder_counts_by_content(self, folder: Path, tmp_path: Path) -> None:
        other = shutil.copytree(folder, tmp_path / "other")
        first, second = (FamilyRequest(model="siglip", checkpoint=each) for each in (folder, other))
        assert subject_key(first) == subject_key(second)
        (other / "preprocessor_config.json").write_text("{}")
        assert subject_key(first) != subject_key(second)

    def test_a_file_is_no_folder(self, folder: Path) -> None:
        with pytest.raises(ExportError, match="is no folder") as caught:
            load_subject("siglip", checkpoint=folder / "model.safetensors")
        assert "config.json" in str(caught.value.hint)

    def test_sizes_are_the_folders_own(self, folder: Path) -> None:
        with pytest.raises(ExportError, match="no option 'hidden_size'"):
            load_subject("siglip", checkpoint=folder, hidden_size=64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_sise": 32}, "hidden_sise"),
        ({"hidden_size": 32.0}, "not of type int"),
        ({"hidden_size": 30}, "not divisible by num_attention_heads"),
        ({"num_hidden_layers": 0}, "at least 1"),
        ({"image_size": 18}, "multiple of the patch size"),
        ({"registers": 1}, "--registers is for denoisers"),
        ({"latent_stats": 3}, "not of type str"),
    ],
)
def test_options_that_cannot_be_built_are_refused(options: dict[str, Any], message: str) -> None:
    for family in TOWERS:
        with pytest.raises(ExportError, match=message):
            load_subject(family, random_weights=0, **{**SIZES, **options})


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "siglip2"])
def test_parameter_counts_are_true(family: str) -> None:
    with torch.device("meta"):
        encoder = random_encoder(family, {})
    assert sum(weight.numel() for weight in encoder.parameters()) == entry(family).parameters


def test_flat_patches_take_as_many_weights_as_a_convolution() -> None:
    """That model can't be run without values, which its own checks of the grid read."""
    assert entry("siglip2").parameters == entry("siglip").parameters
    flat = {name: value for name, value in SIZES.items() if name != "image_size"}
    small = load_subject("siglip2", random_weights=0, **{**flat, "num_patches": 16, "intermediate_size": MLP}, grid=4)
    same = load_subject("siglip", random_weights=0, **SIZES, intermediate_size=MLP)
    assert sum(w.numel() for w in small.module.parameters()) == sum(w.numel() for w in same.module.parameters())


def test_random_weights_depend_on_the_seed_alone() -> None:
    def weights(seed: int) -> list[Tensor]:
        return list(load_subject("dinov2", random_weights=seed, **SIZES).module.parameters())

    before = torch.get_rng_state()
    first, second, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_transformers_is_needed_only_for_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ExportError, match="need the package transformers") as caught:
        load_subject("siglip", random_weights=0, **SIZES)
    assert "dsr-export[models]" in str(caught.value.hint)
