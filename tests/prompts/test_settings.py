"""What a folder says of special tokens, padding and lengths, read as transformers reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import CLIPTokenizer, PreTrainedTokenizerFast

from dsr_export.prompts import PromptTokenizer
from tests.prompts.tokenizer_folders import byte_level, clip_files

TEXTS = ["low lower! <|ENDOFTEXT|> <|endoftext|>", "", " New Token x<new>y Low é low", "<bos> low</s><pad> cats"]
MARKED = {"content": "low", "__type": "AddedToken"}
CHANGES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "a new token that pads": {"pad_token": "<new>"},
    "a word that pads": {"pad_token": "low"},
    "special tokens without a role": {"extra_special_tokens": ["New Token", "é"]},
    "the name of before": {"additional_special_tokens": ["New Token", "low"]},
    "both names": {"additional_special_tokens": ["low"], "extra_special_tokens": ["é"]},
    "other roles": {"extra_special_tokens": {"new_token": "<new>"}, "additional_special_tokens": ["é"]},
    "a role of its own": {"image_token": "New Token"},
    "a role of its own, unmarked": {"image_token": {"content": "é"}},
    "spaces before": {"mask_token": {**MARKED, "lstrip": True}},
    "spaces behind": {"mask_token": {**MARKED, "rstrip": True, "normalized": True}},
    "whole words": {"mask_token": {**MARKED, "single_word": True, "normalized": False}},
    "found in the lowered text": {"mask_token": {**MARKED, "content": "Low", "normalized": True}},
    "left": {"padding_side": "left", "truncation_side": "left"},
    "special tokens split": {"split_special_tokens": True},
}


def read(made: Any, folder: Path) -> None:
    """Compares what transformers and we make of `folder`."""
    theirs, ours = made.from_pretrained(folder), PromptTokenizer.from_folder(folder)
    for length in (4, 16):
        cut = theirs(TEXTS, padding="max_length", max_length=length, truncation=True)
        found = ours(TEXTS, length=length)
        assert (found.ids.tolist(), found.mask.tolist()) == (cut.input_ids, cut.attention_mask)
    assert (
        ours(TEXTS, add_special=False).ids.tolist() == theirs(TEXTS, padding=True, add_special_tokens=False).input_ids
    )


def changed(folder: Path, change: dict[str, Any]) -> Path:
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    return folder


@pytest.mark.parametrize("name", CHANGES)
def test_settings_beside_words_are_read_as_transformers_reads_them(name: str, tmp_path: Path) -> None:
    read(CLIPTokenizer, changed(clip_files(tmp_path), CHANGES[name]))


@pytest.mark.parametrize("name", CHANGES)
def test_settings_beside_a_whole_tokenizer_are_read_as_transformers_reads_them(name: str, tmp_path: Path) -> None:
    made = PreTrainedTokenizerFast(tokenizer_object=byte_level(single="<bos> $A <eos>"), pad_token="<pad>")
    made.save_pretrained(tmp_path)
    read(PreTrainedTokenizerFast, changed(tmp_path, CHANGES[name]))


@pytest.mark.parametrize(
    ("given", "longest"), [(77, 77), (None, None), (1e30, None), (10**30, None), (512.0, 512), (2**20, 2**20)]
)
def test_the_longest_prompt_is_that_of_the_folder(given: Any, longest: int | None, tmp_path: Path) -> None:
    assert PromptTokenizer.from_folder(clip_files(tmp_path, model_max_length=given)).longest == longest


def test_padding_that_the_tokenizer_keeps_is_used(tmp_path: Path) -> None:
    backend = byte_level()
    backend.enable_padding(direction="left", pad_id=backend.token_to_id("<pad>"), pad_token="<pad>", length=9)
    backend.enable_truncation(2)
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text("{}")
    read(PreTrainedTokenizerFast, tmp_path)
    assert PromptTokenizer.from_folder(tmp_path)(["low low", "a"]).mask.tolist()[1] == [0, 0, 1]


def test_an_added_word_gets_its_id(tmp_path: Path) -> None:
    first = PromptTokenizer.from_folder(clip_files(tmp_path)).largest_id + 1
    added = {str(first): {"content": "cats", "special": False, "normalized": True}}
    clip_files(tmp_path, added_tokens_decoder=added)
    read(CLIPTokenizer, tmp_path)
    tokenizer = PromptTokenizer.from_folder(tmp_path)
    assert tokenizer.largest_id == first and tokenizer(["Cats"]).ids[0, 1] == first
