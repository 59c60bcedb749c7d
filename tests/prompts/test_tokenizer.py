"""Ids and masks against transformers' own tokenizers, over texts of every sort."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer, GemmaTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer, T5Tokenizer

from dsr_export.prompts import PromptTokenizer
from tests.prompts.tokenizer_folders import PAIRS, PLAIN, byte_level, clip_files, clip_words, t5_files, t5_pieces

SPECIAL = {"normalized": True, "lstrip": False, "rstrip": False, "single_word": False}
WORDS = ("low", "lower", "cat's", "naïve", "café", "cafe\u0301", "LOW", "3 cats", "!", "!!", "<pad>", "</s>", "<bos>")
ODD = (
    "<|endoftext|>",
    "<|ENDOFTEXT|>",
    "<|startoftext|>x",
    "<extra_id_3>",
    "\u200b",
    "\x00",
    "\n\t",
    "   ",
    "😀",
    "汉字",
    "ﬁ",
)
texts = st.one_of(
    st.text(max_size=40),
    st.lists(st.sampled_from(WORDS + ODD), max_size=12).map(" ".join),
    st.lists(st.sampled_from(WORDS + ODD), max_size=12).map("".join),
    st.sampled_from(["", " ", "low " * 40, "a" * 300]),
)


def clip(folder: Path) -> Any:
    return CLIPTokenizer.from_pretrained(clip_files(folder))


def clip_padded_with_a_letter(folder: Path) -> Any:
    """As SD3's second and SDXL's: "!" pads, and is found in prompts as a special token."""
    return CLIPTokenizer.from_pretrained(clip_files(folder, pad_token="!"))


def clip_of_older_files(folder: Path) -> Any:
    """Special tokens in a file of their own, found in the lowered text."""
    clip_files(folder, bos_token=None)
    named = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    kept: dict[str, Any] = {name: {**SPECIAL, "content": word} for name, word in named.items()}
    (folder / "special_tokens_map.json").write_text(json.dumps({**kept, "pad_token": "!"}))
    (folder / "added_tokens.json").write_text(json.dumps({"Cat-Word": len(clip_words())}))
    return CLIPTokenizer.from_pretrained(folder)


def clip_of_version_4(folder: Path) -> Any:
    """As SD3's second: all added tokens by their ids in one file, those at the ends found in the lowered text."""
    words, ends = clip_words(), {"<|startoftext|>": True, "<|endoftext|>": True, "!": False}
    added = {
        str(words[word]): {**SPECIAL, "content": word, "normalized": lowered, "special": True}
        for word, lowered in ends.items()
    }
    named = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    return CLIPTokenizer.from_pretrained(clip_files(folder, added_tokens_decoder=added, pad_token="!", **named))


def saved(made: Any, folder: Path) -> Any:
    made.save_pretrained(folder)
    return type(made).from_pretrained(folder)


def saved_clip(folder: Path) -> Any:
    pairs = [tuple(pair.split(" ")) for pair in PAIRS]
    return saved(CLIPTokenizer(vocab=clip_words(), merges=pairs, model_max_length=12), folder)


def saved_t5(folder: Path) -> Any:
    return saved(T5Tokenizer(vocab=t5_pieces(), model_max_length=20), folder)


def t5_of_pieces(folder: Path) -> Any:
    """transformers reads the file with two more packages; what it makes of it is this."""
    t5_files(folder)
    extra = [(f"<extra_id_{i}>", 0.0) for i in reversed(range(100))]
    return T5Tokenizer(vocab=[*t5_pieces(), *extra], model_max_length=20)


def t5_of_older_files(folder: Path) -> Any:
    """As PixArt's: the extra ids in two more files."""
    theirs, first = t5_of_pieces(folder), len(t5_pieces())
    words = [f"<extra_id_{i}>" for i in range(100)]
    (folder / "added_tokens.json").write_text(json.dumps({word: first + 99 - i for i, word in enumerate(words)}))
    named = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "additional_special_tokens": words}
    (folder / "special_tokens_map.json").write_text(json.dumps(named))
    return theirs


def saved_gemma(folder: Path) -> Any:
    letters = "▁abcdefghijklmnopqrstuvwxyz'.,!"
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *letters, *(f"<0x{i:02X}>" for i in range(256)), "lo", "low"]
    made = GemmaTokenizer(
        vocab={word: i for i, word in enumerate(words)}, merges=[("l", "o"), ("lo", "w")], add_bos_token=True
    )
    return saved(made, folder)


def saved_qwen(folder: Path) -> Any:
    made = byte_level()
    words = {**made.get_vocab(), "<|endoftext|>": made.get_vocab_size()}
    pairs = [tuple(pair.split(" ")) for pair in PLAIN]
    return saved(Qwen2Tokenizer(vocab=words, merges=pairs, extra_special_tokens=["<|im_start|>"]), folder)


def qwen(folder: Path) -> Any:
    """Of the files that older versions kept."""
    words = byte_level().get_vocab()
    folder.mkdir(exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({**words, "<|endoftext|>": len(words)}))
    (folder / "merges.txt").write_text("\n".join(PLAIN))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Qwen2Tokenizer"}))
    return Qwen2Tokenizer.from_pretrained(folder)


def any_class(folder: Path, **options: Any) -> Any:
    made = byte_level(single="<bos> $A <eos>")
    named = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    return saved(PreTrainedTokenizerFast(tokenizer_object=made, **named, **options), folder)


left = functools.partial(any_class, padding_side="left", truncation_side="left")
split = functools.partial(any_class, split_special_tokens=True)
KINDS: dict[str, Callable[[Path], Any]] = {
    "clip": clip,
    "clip padded with a letter": clip_padded_with_a_letter,
    "clip of older files": clip_of_older_files,
    "clip of version 4": clip_of_version_4,
    "saved clip": saved_clip,
    "saved t5": saved_t5,
    "t5 of pieces": t5_of_pieces,
    "t5 of older files": t5_of_older_files,
    "saved gemma": saved_gemma,
    "saved qwen": saved_qwen,
    "qwen": qwen,
    "any class": any_class,
    "left": left,
    "split special tokens": split,
}


@functools.cache
def pair(kind: str) -> tuple[Any, PromptTokenizer]:
    """Theirs and ours, of the same folder."""
    with tempfile.TemporaryDirectory() as folder:
        theirs = KINDS[kind](Path(folder))
        return theirs, PromptTokenizer.from_folder(Path(folder))


def compare(kind: str, prompts: list[str], length: int, *, special: bool = True) -> None:
    theirs, ours = pair(kind)
    cut = theirs(prompts, padding="max_length", max_length=length, truncation=True, add_special_tokens=special)
    made = ours(prompts, length=length, add_special=special)
    assert made.ids.tolist() == cut.input_ids and made.mask.tolist() == cut.attention_mask
    whole = theirs(prompts, padding="longest", add_special_tokens=special)
    made_whole = ours(prompts, add_special=special)
    assert made_whole.ids.tolist() == whole.input_ids and made_whole.mask.tolist() == whole.attention_mask
    long = [len(ids) > length for ids in theirs(prompts, add_special_tokens=special).input_ids]
    assert len(made.dropped) == len(prompts)
    assert all(was or not text for text, was in zip(made.dropped, long, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@given(prompts=st.lists(texts, min_size=1, max_size=3), length=st.integers(2, 30), special=st.booleans())
@settings(max_examples=20, deadline=None)
def test_ids_and_masks_equal_those_of_transformers(kind: str, prompts: list[str], length: int, special: bool) -> None:
    compare(kind, prompts, length, special=special)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@given(prompts=st.lists(texts, min_size=1, max_size=4), length=st.integers(2, 100), special=st.booleans())
@settings(max_examples=600, deadline=None)
def test_ids_and_masks_equal_those_of_transformers_widely(
    kind: str, prompts: list[str], length: int, special: bool
) -> None:
    compare(kind, prompts, length, special=special)
