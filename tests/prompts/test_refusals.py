"""Folders that hold no tokenizer, damaged ones, and prompts that are none: one clear error each."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import CLIPTokenizer

from dsr_export.errors import ExportError
from dsr_export.prompts import PromptTokenizer, Tokens, check_ids
from tests.prompts.tokenizer_folders import byte_level, clip_files, sentencepiece_model, t5_files


def whole(folder: Path, config: dict[str, Any] | None = None, change: Any = None) -> Path:
    """A `tokenizer.json`, after `change` of its content."""
    content = json.loads(byte_level(single="<bos> $A <eos>").to_str())
    if change is not None:
        change(content)
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<pad>", **(config or {})}))
    return folder


def refused(folder: Path) -> str:
    with pytest.raises(ExportError) as raised:
        PromptTokenizer.from_folder(folder)
    assert raised.value.hint
    return raised.value.message


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    assert "no such folder" in refused(tmp_path / "tokenizer_2")
    assert "holds no tokenizer: neither tokenizer.json, nor vocab.json with merges.txt" in refused(tmp_path)
    (clip_files(tmp_path / "half") / "merges.txt").unlink()
    assert "holds no tokenizer" in refused(tmp_path / "half")


def test_the_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ExportError, match="prompts need the package tokenizers") as raised:
        PromptTokenizer.from_folder(whole(tmp_path))
    assert raised.value.hint == "install the extra: pip install 'dsr-export[prompts]'"


def test_words_of_an_unknown_class(tmp_path: Path) -> None:
    assert "vocab.json of RobertaTokenizer" in refused(clip_files(tmp_path, tokenizer_class="RobertaTokenizer"))
    pieces = t5_files(tmp_path / "g", tokenizer_class="GemmaTokenizer") / "spiece.model"
    assert "spiece.model is of GemmaTokenizer" in refused(pieces.parent)
    pieces.rename(pieces.parent / "tokenizer.model")
    assert "tokenizer.model is of GemmaTokenizer, and beside it lies no tokenizer.json" in refused(pieces.parent)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("tokenizer_config.json", "{", "no readable JSON"),
        ("tokenizer_config.json", "[]", "holds no JSON object"),
        ("tokenizer_config.json", '{"model_max_length": "long"}', "model_max_length is 'long'"),
        ("tokenizer_config.json", '{"padding_side": "both"}', "padding_side is 'both', not left or right"),
        ("tokenizer_config.json", '{"add_bos_token": 1}', "add_bos_token is 1, not true or false"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": "y"}}', "the id of an added token is 'x'"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"3": 4}}', "a token is 4"),
        ("tokenizer_config.json", '{"extra_special_tokens": [1]}', "extra_special_tokens is"),
        ("tokenizer_config.json", '{"extra_ids": 1000000000, "tokenizer_class": "T5Tokenizer"}', "extra_ids is"),
        ("special_tokens_map.json", "nothing", "special_tokens_map.json is no readable JSON"),
        ("added_tokens.json", '{"cat": -1}', "the id of an added token is -1"),
        ("vocab.json", "[1]", "vocab.json holds no JSON object"),
        ("vocab.json", '{"a": "b"}', "holds no CLIPTokenizer"),
        ("vocab.json", '{"a": 1}', "holds no CLIPTokenizer"),
        ("merges.txt", "a b c\n", "holds a line that is no pair"),
        ("merges.txt", "x y\n", "holds no CLIPTokenizer"),
        ("tokenizer.json", "{}", "tokenizer.json is no tokenizer"),
        ("tokenizer.json", "", "tokenizer.json is no tokenizer"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: str, said: str) -> None:
    (clip_files(tmp_path) / name).write_text(content)
    assert said in refused(tmp_path)


def test_a_template_without_its_token_is_damage(tmp_path: Path) -> None:
    """The package's native code panics over it."""

    def forget(content: dict[str, Any]) -> None:
        del content["post_processor"]["special_tokens"]["<bos>"]

    assert "holds no tokenizer" in refused(whole(tmp_path, change=forget))


def test_a_vocabulary_of_other_ids_is_refused(tmp_path: Path) -> None:
    added = {"7": {"content": "<pad>", "special": True}}
    assert "gives '<pad>' the id 7, and its vocabulary" in refused(whole(tmp_path, {"added_tokens_decoder": added}))


def test_a_token_that_is_asked_for_and_not_added_is_refused(tmp_path: Path) -> None:
    def plain(content: dict[str, Any]) -> None:
        content["post_processor"] = None

    config = {"add_bos_token": True, "bos_token": "<bos>"}
    assert "asks for bos_token '<bos>', and the tokenizer does not add them" in refused(whole(tmp_path, config, plain))
    assert PromptTokenizer.from_folder(whole(tmp_path, config)).count("low") == 3


def test_a_clip_whose_ends_differ_from_its_settings_is_refused(tmp_path: Path) -> None:
    """One version of transformers takes them from this file, another one from that."""
    CLIPTokenizer.from_pretrained(clip_files(tmp_path / "made")).save_pretrained(tmp_path)
    assert PromptTokenizer.from_folder(tmp_path).count("low") == 3
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": "low"}))
    assert "asks for bos_token '<|startoftext|>' and eos_token 'low'" in refused(tmp_path)


@pytest.mark.parametrize("size", [0, 1, 3, 10, 40, -1])
def test_a_cut_sentencepiece_model_is_refused(tmp_path: Path, size: int) -> None:
    (t5_files(tmp_path) / "spiece.model").write_bytes(sentencepiece_model()[:size])
    assert "spiece.model" in refused(tmp_path)


def test_a_sentencepiece_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    (t5_files(tmp_path) / "spiece.model").write_bytes(sentencepiece_model(kind=2))
    assert "another kind than unigram" in refused(tmp_path)
    (tmp_path / "spiece.model").write_bytes(b"\xff" * 40)
    assert "no sentencepiece model" in refused(tmp_path)


def test_prompts_that_are_no_text(tmp_path: Path) -> None:
    tokenizer = PromptTokenizer.from_folder(whole(tmp_path))
    with pytest.raises(ExportError, match="prompt 1 holds half a character at 2"):
        tokenizer(["low", "lo\ud83d"])
    with pytest.raises(ExportError, match="prompt 0 is None, no text"):
        tokenizer([None])  # type: ignore[list-item]
    with pytest.raises(ExportError, match="prompts of 1 tokens") as raised:
        tokenizer(["low"], length=1)
    assert raised.value.hint == "give a length from 2 to 1048576"
    assert tokenizer([], length=4).ids.shape == (0, 4)
    assert tokenizer(["a\x00b"]).ids.shape == (1, 5)


def test_padding_needs_a_token(tmp_path: Path) -> None:
    tokenizer = PromptTokenizer.from_folder(whole(tmp_path, {"pad_token": None}))
    assert tokenizer(["low"], length=3).mask.tolist() == [[1, 1, 1]]
    with pytest.raises(ExportError, match="no token for padding"):
        tokenizer(["low", ""], length=3)


def test_what_is_cut_off_is_told(tmp_path: Path) -> None:
    tokens = PromptTokenizer.from_folder(clip_files(tmp_path))(["low lower cats", "low", ""], length=4)
    assert tokens.dropped == ("er cats", "", "")
    tokens = PromptTokenizer.from_folder(clip_files(tmp_path, truncation_side="left"))(["low lower cats"], length=4)
    assert tokens.dropped == ("low lower ca",)


def test_ids_beyond_an_encoder_are_refused() -> None:
    tokens = Tokens(np.array([[1, 2], [9, 0]]), np.ones((2, 2), np.int64), ("", ""))
    check_ids(tokens, 10, "text_encoder_2")
    with pytest.raises(ExportError, match="the id 9 of prompt 1, and text_encoder_2 knows ids below 9"):
        check_ids(tokens, 9, "text_encoder_2")
    check_ids(Tokens(np.zeros((0, 4), np.int64), np.zeros((0, 4), np.int64), ()), 1, "text_encoder")


def test_what_a_prompt_is_refused_for_leaves_the_tokenizer_whole(tmp_path: Path) -> None:
    tokenizer = PromptTokenizer.from_folder(whole(tmp_path))
    before = tokenizer.count("low " * 20)
    for wrong in ({"length": 1}, {"length": 2**21}):
        with pytest.raises(ExportError):
            tokenizer(["low " * 20], **wrong)  # type: ignore[arg-type]
    assert tokenizer(["low " * 20], length=4).ids.shape == (1, 4)
    assert tokenizer.count("low " * 20) == before


def test_prompts_import_the_package_only_when_a_tokenizer_is_opened() -> None:
    code = "import sys, dsr_export.prompts; print(*{'torch', 'transformers', 'tokenizers', 'onnx'} & {*sys.modules})"
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert made.stdout.strip() == ""
