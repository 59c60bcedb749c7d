"""Tokenizers of a few words, saved as transformers saves them, with the package `tokenizers` alone."""

from __future__ import annotations

import json
from pathlib import Path

WORDS = [
    "a",
    "cat",
    "dog",
    "photo",
    "of",
    "red",
    "blue",
    "the",
    "on",
    "table",
    "small",
    "big",
    "and",
    "with",
    "blurry",
    "bad",
]
SIZE = 4 + len(WORDS)


def saved_tokenizer(folder: Path, *, single: str, pad: str, longest: int) -> Path:
    """One token for each of `WORDS`; `single` is the template of a prompt, such as `<s> $A </s>`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {word: i for i, word in enumerate(("<pad>", "</s>", "<unk>", "<s>", *WORDS))}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [(word, vocabulary[word]) for word in ("<s>", "</s>")]
    made.post_processor = processors.TemplateProcessing(single=single, special_tokens=special)
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": longest, "pad_token": pad}
    config |= {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def clip_tokenizer(folder: Path) -> Path:
    return saved_tokenizer(folder, single="<s> $A </s>", pad="</s>", longest=16)


def t5_tokenizer(folder: Path) -> Path:
    return saved_tokenizer(folder, single="$A </s>", pad="<pad>", longest=512)


def gemma_tokenizer(folder: Path) -> Path:
    return saved_tokenizer(folder, single="<s> $A", pad="<pad>", longest=4096)
