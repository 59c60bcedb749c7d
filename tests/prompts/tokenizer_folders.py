"""Tiny tokenizers of the kinds that pipelines keep."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from tokenizers.pre_tokenizers import ByteLevel

PAIRS = ("l o", "lo w</w>", "lo w", "e r</w>", "c a", "ca t</w>", "' s</w>", "Ã ©")
END, START = "<|endoftext|>", "<|startoftext|>"
PLAIN = ("l o", "lo w", "e r", "Ġ lo", "Ġlo w", "Ġ c", "Ġc a", "Ġca t", "Ã ©")


def clip_words() -> dict[str, int]:
    """Every byte, alone and at the end of a word, and the merges; "!" is the first, as in the released one."""
    bytes_ = ["!", *sorted(set(ByteLevel.alphabet()) - {"!"})]
    words = [*bytes_, *(f"{each}</w>" for each in bytes_), *(pair.replace(" ", "") for pair in PAIRS), START, END]
    return {word: i for i, word in enumerate(words)}


def clip_files(folder: Path, **config: Any) -> Path:
    """`vocab.json`, `merges.txt` and `tokenizer_config.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(clip_words()))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(PAIRS) + "\n")
    kept = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 12, **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(kept))
    return folder


def t5_pieces() -> list[tuple[str, float]]:
    """The three special pieces, letters, and some words."""
    letters = [(letter, -6.0) for letter in "abcdefghijklmnopqrstuvwxyz.,!'"]
    words = [("▁", -3.0), ("▁low", -4.0), ("er", -4.5), ("▁cat", -4.0), ("▁a", -4.2), ("é", -7.0)]
    return [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *words, *letters]


def byte_level(**post: Any) -> Tokenizer:
    """As GPT-2's, without words that end."""
    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(pair.replace(" ", "") for pair in PLAIN), "<bos>", "<eos>", "<pad>"]
    pairs = [tuple(pair.split(" ")) for pair in PLAIN]
    made = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=pairs))
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if post:
        ids = [(word, made.token_to_id(word)) for word in ("<bos>", "<eos>")]
        made.post_processor = processors.TemplateProcessing(special_tokens=ids, **post)
    return made


def t5_files(folder: Path, **config: Any) -> Path:
    """`spiece.model` and `tokenizer_config.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spiece.model").write_bytes(sentencepiece_model())
    kept = {"tokenizer_class": "T5Tokenizer", "model_max_length": 20, **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(kept))
    return folder


def sentencepiece_model(kind: int = 1) -> bytes:
    """The pieces of T5 as a protocol buffer, with fields that no one reads, and 1 for unigram."""
    types = {"<pad>": 3, "</s>": 3, "<unk>": 2}
    pieces = (
        _bytes(1, text.encode()) + b"\x15" + struct.pack("<f", score) + _number(3, types.get(text, 1))
        for text, score in t5_pieces()
    )
    trained = _bytes(1, b"corpus.txt") + _number(3, kind) + _number(4, 8000) + _number(40, 2)
    normal = _bytes(1, b"identity") + _number(3, 1)
    return b"".join(_bytes(1, piece) for piece in pieces) + _bytes(2, trained) + _bytes(3, normal)


def _bytes(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    head = b""
    while value > 127:
        head, value = head + bytes([value & 127 | 128]), value >> 7
    return head + bytes([value])
