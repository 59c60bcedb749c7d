"""Text encoders as a graph takes them, against transformers' own models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dsr_export.errors import ExportError
from dsr_export.families.text_encoders.folder import open_text_encoder
from dsr_export.families.text_encoders.models import text_encoder_subject
from dsr_export.families.text_encoders.reads import Reads
from dsr_export.subject import Subject

transformers = pytest.importorskip("transformers", reason="the models extra is not installed")
CLIP = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_hidden_layers": 3}
CLIP |= {"vocab_size": 40, "projection_dim": 12, "max_position_embeddings": 10, "bos_token_id": 3}
T5 = {"d_model": 16, "d_kv": 8, "num_heads": 2, "num_layers": 2, "d_ff": 24, "vocab_size": 40}
GEMMA = {"hidden_size": 16, "head_dim": 8, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 40}
GEMMA |= {"intermediate_size": 24, "num_hidden_layers": 2, "sliding_window": 4}
END = 39  # the highest id: what the old form of CLIP takes for the end
POOLED = Reads(tokens=10, hidden="penultimate", pooled=True)
CASES: dict[str, tuple[str, str, dict[str, Any], Reads]] = {
    "clip-projected": ("CLIPTextModelWithProjection", "CLIPTextConfig", {**CLIP, "eos_token_id": END}, POOLED),
    "clip-old-end": ("CLIPTextModel", "CLIPTextConfig", {**CLIP, "eos_token_id": 2}, POOLED),
    "t5": ("T5EncoderModel", "T5Config", {**T5, "feed_forward_proj": "gated-gelu"}, Reads(tokens=9)),
    "t5-masked": ("T5EncoderModel", "T5Config", T5, Reads(tokens=9, masked=True)),
    "gemma": ("Gemma2Model", "Gemma2Config", GEMMA, Reads(tokens=9, masked=True)),
}


def saved(folder: Path, name: str) -> tuple[Any, Reads]:
    """transformers' own model, saved in `folder`."""
    class_name, config, sizes, reads = CASES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, class_name)(getattr(transformers, config)(**sizes)).eval()
    model.save_pretrained(folder)
    return model, reads


def loaded(folder: Path, name: str, reads: Reads, seed: int | None = None) -> Subject:
    opened = open_text_encoder(folder, CASES[name][0], own_weights=seed is None)
    return text_encoder_subject(name, opened, reads, random_weights=seed)


def prompts(reads: Reads) -> tuple[Any, Any]:
    """Long, short and empty prompts: their end is the id 39, and so is the padding."""
    ids = np.random.default_rng(0).integers(4, 38, (3, reads.tokens))
    mask = np.ones_like(ids)
    for row, length in enumerate((reads.tokens - 1, 4, 0)):
        ids[row, length:], mask[row, length + 1 :] = END, 0
    return ids, mask


@pytest.mark.parametrize("name", CASES)
def test_states_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    model, reads = saved(tmp_path, name)
    subject = loaded(tmp_path, name, reads)
    ids, mask = prompts(reads)
    given = {"ids": ids, **({"mask": mask} if reads.masked else {})}
    with subject.reference() as runner:
        made = runner.infer(given)
    seen = torch.from_numpy(mask) if reads.masked else None
    with torch.no_grad():
        own = model(torch.from_numpy(ids), attention_mask=seen, output_hidden_states=True)
    states = own.hidden_states[-2] if reads.hidden == "penultimate" else own.last_hidden_state
    real = mask.astype(bool) if reads.masked else np.ones_like(mask, bool)  # what padding is, nobody reads
    np.testing.assert_allclose(made["embeds"][real], states.numpy()[real], atol=1e-5)
    if reads.pooled:
        pooled = own.text_embeds if hasattr(own, "text_embeds") else own.pooler_output
        np.testing.assert_allclose(made["pooled"], pooled.numpy(), atol=1e-5)
    assert [spec.name for spec in subject.outputs] == list(made)
    assert all(spec.shape[1:] == made[spec.name].shape[1:] for spec in subject.outputs)


def test_later_tokens_do_not_change_earlier_states_of_a_causal_model(tmp_path: Path) -> None:
    model, _ = saved(tmp_path, "gemma")
    subject = loaded(tmp_path, "gemma", Reads(tokens=14, masked=True))
    ids, mask = prompts(CASES["gemma"][3])
    wide = {name: np.pad(values, ((0, 0), (0, 5))) for name, values in (("ids", ids), ("mask", mask))}
    with subject.reference() as runner:
        made = runner.infer(wide)["embeds"]
    with torch.no_grad():
        own = model(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).last_hidden_state.numpy()
    real = mask.astype(bool)
    np.testing.assert_allclose(made[:, : ids.shape[1]][real], own[real], atol=1e-5)


def test_seeded_weights_need_no_files(tmp_path: Path) -> None:
    saved(tmp_path, "t5")
    (tmp_path / "model.safetensors").unlink()
    one, other, again = (loaded(tmp_path, "t5", Reads(tokens=5), seed).module for seed in (1, 2, 1))
    weights = [next(iter(module.parameters())) for module in (one, other, again)]
    assert torch.equal(weights[0], weights[2]) and not torch.equal(weights[0], weights[1])
    with pytest.raises(ExportError, match="holds no weights"):
        loaded(tmp_path, "t5", Reads(tokens=5))


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    _, reads = saved(tmp_path, "clip-projected")
    with pytest.raises(ExportError, match="asked for 11 tokens, and takes 1 to 10"):
        loaded(tmp_path, "clip-projected", Reads(tokens=11))
    with pytest.raises(ExportError, match="is a BertModel, which is no text encoder"):
        open_text_encoder(tmp_path, "BertModel")
    saved(tmp_path / "t5", "t5")
    with pytest.raises(ExportError, match="has no pooled output"):
        loaded(tmp_path / "t5", "t5", Reads(tokens=5, pooled=True))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 4}))
    with pytest.raises(ExportError, match="lacks 16 weights"):
        loaded(tmp_path, "clip-projected", reads)
