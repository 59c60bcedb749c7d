"""What a tokenizer's folder says beside its vocabulary: special tokens, padding, lengths.

Files: `tokenizer_config.json`, and of older versions `special_tokens_map.json` and `added_tokens.json`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dsr_export.errors import ExportError
from dsr_export.short_repr import short_repr
from graphs.foreign.small_files import read_json_object

CONFIG, SPECIAL, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
AGAIN = "copy or download the tokenizer's folder again"
NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
EXTRA, BEFORE = "extra_special_tokens", "additional_special_tokens"  # without a role: the name of today, of before
LONGEST = 2**20  # of model_max_length: files say 10**30 where there is no limit
Side = Literal["left", "right"]
CLIP, GEMMA, QWEN, T5 = "CLIPTokenizer", "GemmaTokenizer", "Qwen2Tokenizer", "T5Tokenizer"
PADDED_LEFT = (GEMMA,)
_END = "<|endoftext|>"
DEFAULTS: Mapping[str, Mapping[str, str]] = {
    CLIP: {"bos_token": "<|startoftext|>", "eos_token": _END, "unk_token": _END, "pad_token": _END},
    GEMMA: {f"{word}_token": f"<{word}>" for word in ("bos", "eos", "unk", "pad", "mask")},
    QWEN: {"eos_token": _END, "unk_token": _END, "pad_token": _END},
    T5: {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
}
"""Class -> its special tokens by role, where a folder does not say them."""


ENDS: Mapping[str, tuple[str, ...]] = {CLIP: ("bos_token", "eos_token"), T5: ("eos_token",)}
"""Class -> the tokens around each prompt, the first of two before it."""


@dataclass(frozen=True, kw_only=True)
class Token:
    """A token that is found in a prompt before its text is split: a special one, or one added to the vocabulary.

    `normalized` says that it is looked for in the normalised text; `index` is its id, where a file says it.
    """

    content: str
    special: bool = True
    normalized: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    index: int | None = None


@dataclass(frozen=True, kw_only=True)
class FolderSettings:
    """`kind` is the class that wrote the folder, without its suffix `Fast`; `named` are the special tokens by role.

    `added` are all tokens to be found in a prompt, in the order of their ids.
    """

    kind: str
    named: Mapping[str, str]
    added: tuple[Token, ...]
    longest: int | None
    padding_side: Side | None
    truncation_side: Side | None
    begins: bool
    ends: bool
    splits_special: bool
    extra_ids: int


def read_folder_settings(folder: Path) -> FolderSettings:
    """Raises ExportError for a file that is no JSON, or a value that is none of its kind."""
    values = _flat(_read(folder / CONFIG))
    listed = values.get("added_tokens_decoder")
    tokens = [_token(value, index=_index(index)) for index, value in _object(listed, "added_tokens_decoder").items()]
    if listed is None:  # older versions kept these two files, and read them after the first
        values = _joined(values, _flat(_read(folder / SPECIAL)))
        tokens = list(_older(folder, values))
    kind = str(values.get("tokenizer_class", "")).removesuffix("Fast")
    roles = _roles(values, kind)
    known = {token.content: token for token in tokens}
    added = [*sorted(tokens, key=lambda token: token.index or 0), *roles.values(), *_extra(values, kind)]
    return FolderSettings(
        kind=kind,
        named={name: token.content for name, token in roles.items()},
        added=tuple({token.content: known.get(token.content, token) for token in added}.values()),
        longest=_longest(values),
        padding_side=_side(values, "padding_side") or ("left" if kind in PADDED_LEFT else None),
        truncation_side=_side(values, "truncation_side"),
        begins=_flag(values, "add_bos_token"),
        ends=_flag(values, "add_eos_token"),
        splits_special=_flag(values, "split_special_tokens"),
        extra_ids=_extra_ids(values),
    )


def _read(file: Path) -> dict[str, Any]:
    return read_json_object(file, hint=AGAIN) if file.is_file() else {}


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    """With one name for the special tokens without a role, and those of other roles beside the usual ones."""
    extra = values.pop(EXTRA, None)
    if isinstance(extra, dict):
        values |= {f"{name.removesuffix('_token')}_token": value for name, value in extra.items()}
        extra = None
    found = extra or values.get(BEFORE) or []
    if not isinstance(found, list) or not all(_is_token(value) for value in found):
        raise _wrong(EXTRA, found, "a list of tokens")
    return {**values, EXTRA: found}


def _joined(values: Mapping[str, Any], older: Mapping[str, Any]) -> dict[str, Any]:
    """With the tokens of the older file, which come first but for those without a role: they follow."""
    joined = {**values}
    for name, value in older.items():
        if name == EXTRA:
            joined[EXTRA] = joined[EXTRA] + value
        elif isinstance(value, dict) and _is_token(value):
            joined[name] = {**value, "__type": "AddedToken", "special": True}
        else:
            joined[name] = value
    return joined


def _older(folder: Path, values: Mapping[str, Any]) -> Iterator[Token]:
    special = {_token(value).content for value in values.values() if _is_token(value)}
    for content, index in _read(folder / ADDED).items():
        found = content in special
        yield Token(content=content, special=found, normalized=not found, index=_index(index))


def _roles(values: Mapping[str, Any], kind: str) -> dict[str, Token]:
    """Special tokens by role; what is not said is as the class has it, and null is none. Other roles come last."""
    found = {name: value for name, value in values.items() if name.endswith("_token") and _is_token(value)}
    missing = {name: word for name, word in DEFAULTS.get(kind, {}).items() if name not in values}
    others = {name: value for name, value in found.items() if isinstance(value, str) or "__type" in value}
    roles = {**found, **missing}
    ordered = {name: roles[name] for name in NAMES if name in roles} | others
    return {name: _token(value, special=True) for name, value in ordered.items()}


def _extra(values: Mapping[str, Any], kind: str) -> list[Token]:
    """Special tokens without a role."""
    if values[EXTRA] or kind != T5:
        return [_token(value) for value in values[EXTRA]]
    return [Token(content=f"<extra_id_{i}>") for i in range(_extra_ids(values))]


def _is_token(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, dict) and isinstance(value.get("content"), str))


def _token(value: Any, *, index: int | None = None, special: bool = False) -> Token:
    """A text alone is a special token."""
    if isinstance(value, str):
        return Token(content=value, index=index)
    if not _is_token(value):
        raise _wrong("a token", value, "a text, or an object with a content")
    special = special or value.get("special") is True
    flags = {name: value.get(name) is True for name in ("lstrip", "rstrip", "single_word")}
    normalized = value.get("normalized", not special) is True
    return Token(content=value["content"], special=special, normalized=normalized, index=index, **flags)


def _index(value: Any) -> int:
    text = str(value)
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise _wrong("the id of an added token", value, "a whole number")
    return int(text)


def _longest(values: Mapping[str, Any]) -> int | None:
    value = values.get("model_max_length", values.get("max_len"))
    if value is None:
        return None
    if type(value) not in (int, float) or not value >= 1:
        raise _wrong("model_max_length", value, "a number above 0")
    return int(value) if value <= LONGEST else None


def _side(values: Mapping[str, Any], name: str) -> Side | None:
    value = values.get(name)
    if value is not None and value not in ("left", "right"):
        raise _wrong(name, value, "left or right")
    return value


def _flag(values: Mapping[str, Any], name: str) -> bool:
    value = values.get(name)
    if value is not None and type(value) is not bool:
        raise _wrong(name, value, "true or false")
    return value is True


def _extra_ids(values: Mapping[str, Any]) -> int:
    value = values.get("extra_ids", 100)
    if type(value) is not int or not 0 <= value <= 10_000:
        raise _wrong("extra_ids", value, "a whole number up to 10000")
    return value


def _object(value: Any, name: str) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise _wrong(name, value, "an object")
    return value or {}


def _wrong(name: str, value: Any, wanted: str) -> ExportError:
    return ExportError(f"{CONFIG}: {name} is {short_repr(value)}, not {wanted}", hint=AGAIN)
