"""Networks in `transformers` folders: tiny ones with random weights, against transformers itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from dsr_export.errors import ExportError
from dsr_export.evaluation.features.clip_score import ClipScore
from dsr_export.evaluation.features.vision_folder import VisionFolder

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
PICTURES = np.random.default_rng(0).integers(0, 256, (3, 20, 20, 3)).astype(np.uint8)


def _processor(folder: Path, side: int) -> None:
    settings = {"size": {"height": side, "width": side}, "image_mean": MEAN, "image_std": STD}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


def _pixels(side: int) -> torch.Tensor:
    rows = [np.asarray(Image.fromarray(each).resize((side, side), Image.Resampling.BICUBIC)) for each in PICTURES]
    scaled = (np.stack(rows) / 255 - np.array(MEAN)) / np.array(STD)
    return torch.from_numpy(scaled.transpose(0, 3, 1, 2))


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dinov2")
    torch.manual_seed(0)
    config = transformers.Dinov2Config(**SIZES, image_size=28, patch_size=14)
    transformers.Dinov2Model(config).save_pretrained(folder)
    _processor(folder, 28)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    text = {**SIZES, "vocab_size": 10, "max_position_embeddings": 8, "eos_token_id": 9, "bos_token_id": 8}
    vision = {**SIZES, "image_size": 32, "patch_size": 16}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    model = transformers.CLIPModel(config)
    with torch.no_grad():  # else every cosine of these weights is negative, and every score 0
        model.visual_projection.weight.neg_()
    model.save_pretrained(folder)
    words = {**{word: i for i, word in enumerate(["<pad>", "a", "red", "fox", "[UNK]"])}, "<s>": 8, "</s>": 9}
    made = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    made.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 8), ("</s>", 9)])
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<pad>", "model_max_length": 8}))
    _processor(folder, 32)
    return folder


def test_features_are_the_class_token_behind_the_last_norm(dinov2: Path) -> None:
    network = VisionFolder(dinov2)
    with torch.no_grad():
        wanted = transformers.Dinov2Model.from_pretrained(dinov2)(_pixels(28).float()).last_hidden_state[:, 0]
    np.testing.assert_allclose(network(PICTURES).features, wanted.numpy(), atol=1e-5)
    assert network.width == 16


def test_the_clip_score_is_the_cosine_of_projected_embeddings(clip: Path) -> None:
    prompts = ["a red fox", "fox", "a fox a red fox a fox a red"]  # the last is cut
    model = transformers.CLIPModel.from_pretrained(clip).double()
    ids = [[8, 1, 2, 3, 9, 0, 0, 0], [8, 3, 9, 0, 0, 0, 0, 0], [8, 1, 3, 1, 2, 3, 1, 9]]
    with torch.no_grad():
        made = model(input_ids=torch.tensor(ids), pixel_values=_pixels(32))
        wanted = 100 * torch.cosine_similarity(made.image_embeds, made.text_embeds).clamp(min=0)
    found = ClipScore(clip)(PICTURES, prompts)
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-10)
    assert (found > 1).all() and len(set(found.tolist())) == 3


def test_another_tokenizer_is_another_network(clip: Path) -> None:
    before = ClipScore(clip).digest
    (clip / "merges.txt").write_text("#version: 0.2\n")
    assert ClipScore(clip).digest != before
    (clip / "merges.txt").unlink()


def test_folders_that_are_not_whole_are_refused(dinov2: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="holds no model files"):
        VisionFolder(tmp_path)
    with pytest.raises(ExportError, match="needs CLIP"):
        ClipScore(dinov2)
    (dinov2 / "preprocessor_config.json").rename(tmp_path / "aside")
    with pytest.raises(ExportError, match="holds no preprocessor_config.json"):
        VisionFolder(dinov2)
    (tmp_path / "aside").rename(dinov2 / "preprocessor_config.json")


def _saved(folder: Path, model: transformers.PreTrainedModel) -> Path:
    model.save_pretrained(folder)
    _processor(folder, 32)
    return folder


def test_a_convolutional_encoder_gives_what_it_pools(tmp_path: Path) -> None:
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1])
    model = transformers.ResNetModel(config).eval()
    network = VisionFolder(_saved(tmp_path, model))
    with torch.no_grad():
        wanted = model(_pixels(32).float()).pooler_output[..., 0, 0]
    assert network.width == 12
    np.testing.assert_allclose(network(PICTURES).features, wanted.numpy(), atol=1e-5)


def test_models_that_see_nothing_or_pool_nothing_are_refused(tmp_path: Path) -> None:
    reads = _saved(tmp_path / "text", transformers.BertModel(transformers.BertConfig(**SIZES, vocab_size=20)))
    with pytest.raises(ExportError, match="BertModel, which makes no features of a picture"):
        VisionFolder(reads)
    config = transformers.ViTConfig(**SIZES, image_size=32, patch_size=16)
    classifies = _saved(tmp_path / "classes", transformers.ViTForImageClassification(config))
    with pytest.raises(ExportError, match="saved without its pooling") as caught:
        VisionFolder(classifies)
    assert "DINOv2" in str(caught.value.hint)


def test_a_folder_of_pickles_is_told_what_it_lacks(dinov2: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((dinov2 / "config.json").read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ExportError, match="can't be loaded") as caught:
        VisionFolder(tmp_path)
    assert "safetensors" in str(caught.value.hint)
