"""Prompts to ids and masks, as transformers' tokenizers make them for diffusers' pipelines.

Shapes: B prompts, L tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.errors import ExportError
from dsr_export.prompts.library import tokenizers
from dsr_export.prompts.settings import AGAIN, ENDS, FolderSettings, Side, Token, read_folder_settings
from dsr_export.prompts.vocabularies import add_ends, made, open_vocabulary
from dsr_export.short_repr import short_repr

Ids = npt.NDArray[np.int64]
LONGEST = 2**20  # tokens


@dataclass(frozen=True)
class Tokens:
    """`ids [B, L]` and `mask [B, L]` (1 for tokens, 0 for padding), both int64.

    `dropped` is the text of each prompt that the length cut off, empty where nothing was.
    """

    ids: Ids
    mask: Ids
    dropped: tuple[str, ...]


class PromptTokenizer:
    """A tokenizer of a pipeline; `longest` is the number of tokens that its text encoder takes, where it says so."""

    def __init__(self, backend: Any, settings: FolderSettings) -> None:
        """`backend` is a `tokenizers.Tokenizer` with all tokens that `settings` names."""
        self._backend = backend
        self._side: Side = settings.padding_side or "right"
        self._cut: Side = settings.truncation_side or "right"
        self._pad: int | None = backend.token_to_id(settings.named.get("pad_token", ""))
        self.longest = settings.longest
        self.largest_id = max(backend.get_vocab(with_added_tokens=True).values(), default=-1)

    @classmethod
    def from_folder(cls, path: Path) -> PromptTokenizer:
        """Of a folder with `tokenizer.json`, CLIP's or Qwen's `vocab.json` and `merges.txt`, or T5's `spiece.model`.

        Raises ExportError where it holds none, or a damaged one, or the package `tokenizers` is missing.
        """
        settings = read_folder_settings(path)
        backend = open_vocabulary(path, settings)
        settings = _with_kept(settings, backend.padding or {}, backend.truncation or {})
        backend.no_truncation()
        backend.no_padding()
        _add(backend, settings.added, path)
        add_ends(backend, path, settings)
        backend.encode_special_tokens = settings.splits_special
        _check_ends(backend, settings, path)
        return cls(backend, settings)

    def __call__(
        self,
        prompts: Sequence[str],
        *,
        length: int | None = None,
        padding_side: Side | None = None,
        add_special: bool = True,
    ) -> Tokens:
        """Each prompt cut and padded to `length` tokens, or padded to the longest of them; special ones count.

        Raises ExportError for a prompt that is no text, a length that special tokens alone exceed, or padding
        without a token for it.
        """
        _check(prompts)
        encoded = self._encoded(prompts, add_special)
        dropped = [""] * len(prompts)
        if length is not None:
            dropped = self._dropped(prompts, encoded, length, add_special)
            encoded = self._shortened(prompts, length, add_special)
        total = max((len(row) for row in encoded), default=0) if length is None else length
        ids, mask = self._padded(encoded, total, padding_side or self._side)
        return Tokens(ids, mask, tuple(dropped))

    def count(self, text: str) -> int:
        """Tokens of `text`, special ones among them."""
        return int(self([text]).mask.sum())

    def _encoded(self, prompts: Sequence[str], add_special: bool) -> list[Any]:
        found: list[Any] = made(
            lambda: self._backend.encode_batch(list(prompts), add_special_tokens=add_special),
            "the tokenizer takes no such prompt",
        )
        return found

    def _shortened(self, prompts: Sequence[str], length: int, add_special: bool) -> list[Any]:
        self._backend.enable_truncation(length, direction=self._cut)
        try:
            return self._encoded(prompts, add_special)
        finally:
            self._backend.no_truncation()

    def _dropped(self, prompts: Sequence[str], encoded: Sequence[Any], length: int, add_special: bool) -> list[str]:
        """The text of each prompt behind what is kept, or before it where the tokenizer cuts on the left."""
        kept = length - (self._backend.num_special_tokens_to_add(is_pair=False) if add_special else 0)
        if not 0 <= kept <= LONGEST:
            raise ExportError(f"prompts of {length} tokens", hint=f"give a length from {length - kept} to {LONGEST}")
        cut = [i for i, row in enumerate(encoded) if len(row) > length]
        plain = dict(zip(cut, self._encoded([prompts[i] for i in cut], add_special=False), strict=True))
        return [self._behind(prompt, plain[i], kept) if i in plain else "" for i, prompt in enumerate(prompts)]

    def _behind(self, prompt: str, encoding: Any, kept: int) -> str:
        if self._cut == "right":
            return prompt[encoding.offsets[kept][0] :]
        return prompt[: encoding.offsets[len(encoding) - kept - 1][1]]

    def _padded(self, encoded: Sequence[Any], total: int, side: Side) -> tuple[Ids, Ids]:
        short = any(len(row) < total for row in encoded)
        if short and self._pad is None:
            raise ExportError("the tokenizer has no token for padding", hint="set pad_token in tokenizer_config.json")
        ids = np.full((len(encoded), total), self._pad or 0, np.int64)
        mask = np.zeros_like(ids)
        for row, encoding in enumerate(encoded):
            taken = slice(total - len(encoding), total) if side == "left" else slice(len(encoding))
            ids[row, taken], mask[row, taken] = encoding.ids, encoding.attention_mask
        return ids, mask


def _with_kept(settings: FolderSettings, padding: Mapping[str, Any], truncation: Mapping[str, Any]) -> FolderSettings:
    """With what `tokenizer.json` keeps of an earlier use, where the settings say nothing."""
    settings = replace(
        settings,
        padding_side=settings.padding_side or padding.get("direction"),
        truncation_side=settings.truncation_side or truncation.get("direction"),
    )
    if "pad_token" in settings.named or not padding:
        return settings
    token = str(padding["pad_token"])
    added = (*settings.added, Token(content=token))
    return replace(settings, named={**settings.named, "pad_token": token}, added=added)


def _check_ends(backend: Any, settings: FolderSettings, path: Path) -> None:
    """Raises ExportError where the settings ask for other tokens around a prompt than the tokenizer puts there.

    Versions of transformers differ in which of the two they heed.
    """
    found = made(lambda: backend.encode("").ids, f"{path} holds no tokenizer")
    asked = {"bos_token": settings.begins, "eos_token": settings.ends}
    names = ENDS.get(settings.kind) or tuple(name for name, there in asked.items() if there)
    wanted = [backend.token_to_id(settings.named.get(name, "")) for name in names]
    if any(index not in found for index in wanted) or (settings.kind in ENDS and found != wanted):
        words = " and ".join(f"{name} '{settings.named.get(name, '')[:80]}'" for name in names)
        raise ExportError(
            f"{path}: tokenizer_config.json asks for {words}, and the tokenizer does not add them",
            hint="save it again with the transformers it was made for",
        )


def check_ids(tokens: Tokens, rows: int, encoder: str) -> None:
    """Raises ExportError where an id is beyond the `rows` of the embedding of the text encoder named `encoder`."""
    largest = int(tokens.ids.max(initial=-1))
    if largest >= rows:
        raise ExportError(
            f"the tokenizer makes the id {largest} of prompt {int(tokens.ids.max(axis=1).argmax())}, and {encoder} "
            f"knows ids below {rows}",
            hint=f"is it the tokenizer of {encoder}? Copy both from one pipeline",
        )


def _check(prompts: Sequence[str]) -> None:
    for i, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise ExportError(f"prompt {i} is {short_repr(prompt)}, no text")
        try:
            prompt.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ExportError(
                f"prompt {i} holds half a character at {error.start} ({prompt[error.start]!a})",
                hint="give text in UTF-8",
            ) from error


def _add(backend: Any, tokens: Sequence[Token], path: Path) -> None:
    """Adds what is not found in prompts yet; a token that a file gives an id must get it."""
    present = {_flags(token) for token in backend.get_added_tokens_decoder().values()}
    contents = {flags[0] for flags in present}
    for token in tokens:
        if _flags(token) in present or (token.index is None and token.content in contents) or not token.content:
            continue
        flags = {name: getattr(token, name) for name in ("special", "normalized", "lstrip", "rstrip", "single_word")}
        added = tokenizers().AddedToken(token.content, **flags)
        made(partial(backend.add_tokens, [added]), f"{path} adds a token that the tokenizer does not take")
    for token in tokens:
        given = backend.token_to_id(token.content)
        if token.index is not None and given != token.index:
            raise ExportError(
                f"{path} gives '{token.content[:80]}' the id {token.index}, and its vocabulary {given}", hint=AGAIN
            )


def _flags(token: Any) -> tuple[Any, ...]:
    return (token.content, token.special, token.normalized, token.lstrip, token.rstrip, token.single_word)
