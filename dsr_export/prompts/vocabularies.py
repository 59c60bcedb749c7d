"""A tokenizer made of the vocabulary in a folder: `tokenizer.json`, or the files that came before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from dsr_export.errors import ExportError
from dsr_export.prompts.library import tokenizers
from dsr_export.prompts.sentencepiece import Pieces, read_pieces
from dsr_export.prompts.settings import AGAIN, CLIP, ENDS, QWEN, T5, FolderSettings
from graphs.foreign.small_files import LARGEST_JSON, read_json_object, read_small

WHOLE, WORDS, MERGES, PIECES = "tokenizer.json", "vocab.json", "merges.txt", ("spiece.model", "tokenizer.model")
PANIC = "PanicException"
LARGEST = 256 << 20  # bytes; Gemma's tokenizer.json has 34 million
CLIP_WORDS = r"""<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""
"""What CLIP splits a text into, of its released tokenizer (OpenAI, simple_tokenizer.py)."""
QWEN_WORDS = (
    r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"""
    r"""|\s+(?!\S)|\s+"""
)
"""The same of Qwen2, of its released tokenizer.json."""
_CONVERT = "save it as tokenizer.json: transformers.AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"


def open_vocabulary(folder: Path, settings: FolderSettings) -> Any:
    """A `tokenizers.Tokenizer` of `folder`, still without the tokens that its settings add.

    Raises ExportError where the folder holds no vocabulary, one that is damaged, or one of an unknown class.
    """
    if not folder.is_dir():
        raise ExportError(f"no such folder: {folder}", hint="a pipeline keeps its tokenizer in one: " + _CONVERT)
    tokenizers()  # said before anything that may be wrong with the folder
    if (folder / WHOLE).is_file():
        return _whole(folder / WHOLE)
    if (folder / WORDS).is_file() and (folder / MERGES).is_file():
        return _words(folder, settings)
    for name in PIECES:
        if (folder / name).is_file():
            return _pieces(folder / name, settings)
    raise ExportError(
        f"{folder} holds no tokenizer: neither {WHOLE}, nor {WORDS} with {MERGES}, nor {PIECES[0]}",
        hint="save the tokenizer there: tokenizer.save_pretrained(FOLDER)",
    )


def _read(file: Path) -> bytes:
    try:
        return read_small(file, max_bytes=LARGEST, hint=AGAIN)
    except OSError as error:
        raise ExportError(f"can't read {file}: {error.strerror or error}", hint=AGAIN) from error


def _whole(file: Path) -> Any:
    return made(lambda: tokenizers().Tokenizer.from_buffer(_read(file)), f"{file} is no tokenizer")


def _words(folder: Path, settings: FolderSettings) -> Any:
    words = read_json_object(folder / WORDS, max_bytes=LARGEST_JSON, hint=AGAIN)
    merges = _merges(folder / MERGES)
    builders: Mapping[str, Callable[..., Any]] = {CLIP: _clip, QWEN: _qwen}
    build = builders.get(settings.kind)
    if build is None:
        named = settings.kind[:80] or "a class that nothing names"
        raise ExportError(f"{folder} holds {WORDS} of {named}, and no {WHOLE}", hint=_CONVERT)
    return made(lambda: build(words, merges, settings), f"{folder} holds no {settings.kind}")


def _merges(file: Path) -> list[tuple[str, str]]:
    try:
        lines = _read(file).decode("utf-8").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as error:
        raise ExportError(f"{file} is no text ({error.reason})", hint=AGAIN) from error
    pairs = [tuple(line.split(" ")) for line in lines if line.strip() and not line.startswith("#version")]
    if not all(len(pair) == 2 for pair in pairs):
        raise ExportError(f"{file} holds a line that is no pair", hint=AGAIN)
    return pairs  # type: ignore[return-value]


def _clip(words: Mapping[str, int], merges: list[tuple[str, str]], settings: FolderSettings) -> Any:
    library = tokenizers()
    model = library.models.BPE(
        vocab=words,
        merges=merges,
        continuing_subword_prefix="",
        end_of_word_suffix="</w>",
        unk_token=settings.named.get("unk_token"),
    )
    built = library.Tokenizer(model)
    spaces = library.normalizers.Replace(library.Regex(r"\s+"), " ")
    built.normalizer = library.normalizers.Sequence(
        [library.normalizers.NFC(), spaces, library.normalizers.Lowercase()]
    )
    split = library.pre_tokenizers.Split(library.Regex(CLIP_WORDS), behavior="removed", invert=True)
    built.pre_tokenizer = library.pre_tokenizers.Sequence(
        [split, library.pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return built


def _qwen(words: Mapping[str, int], merges: list[tuple[str, str]], settings: FolderSettings) -> Any:
    library = tokenizers()
    built = library.Tokenizer(library.models.BPE(vocab=words, merges=merges))
    built.normalizer = library.normalizers.NFC()
    split = library.pre_tokenizers.Split(library.Regex(QWEN_WORDS), behavior="isolated")
    level = library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    built.pre_tokenizer = library.pre_tokenizers.Sequence([split, level])
    return built


def _pieces(file: Path, settings: FolderSettings) -> Any:
    if settings.kind not in (T5, ""):
        raise ExportError(f"{file} is of {settings.kind[:80]}, and beside it lies no {WHOLE}", hint=_CONVERT)
    found = read_pieces(_read(file), str(file))
    return made(lambda: _t5(found, settings), f"{file} is no T5Tokenizer")


def _t5(found: Pieces, settings: FolderSettings) -> Any:
    """Behind the pieces stand the extra ids, the last one first."""
    library = tokenizers()
    extra = [(f"<extra_id_{i}>", 0.0) for i in reversed(range(settings.extra_ids))]
    built = library.Tokenizer(library.models.Unigram([*found.pieces, *extra], found.unknown, False))
    if found.charsmap:
        built.normalizer = library.normalizers.Precompiled(found.charsmap)
    space = library.pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    built.pre_tokenizer = library.pre_tokenizers.Sequence([library.pre_tokenizers.WhitespaceSplit(), space])
    built.add_tokens([library.AddedToken(text, normalized=False, special=control) for text, control in found.special])
    return built


def add_ends(backend: Any, folder: Path, settings: FolderSettings) -> None:
    """Puts before and behind each prompt what CLIP and T5 put there, where no `tokenizer.json` does.

    Raises ExportError where the special tokens for that are missing.
    """
    library, names = tokenizers(), ENDS.get(settings.kind or T5, ())
    if (folder / WHOLE).is_file() or not names:
        return
    words = [settings.named.get(name, "") for name in names]
    ends = [(word, backend.token_to_id(word)) for word in words]
    if settings.kind == CLIP:
        build = partial(
            library.processors.RobertaProcessing, *reversed(ends), trim_offsets=False, add_prefix_space=False
        )
    else:
        build = partial(library.processors.TemplateProcessing, single=["$A", *words], special_tokens=ends)
    backend.post_processor = made(build, f"{folder}: tokenizer_config.json has no {' or '.join(names)}")


def made(build: Callable[[], Any], message: str) -> Any:
    """What `build` makes with the package. ExportError with `message` where it refuses: its errors have no class.

    A panic of its native code is no `Exception`.
    """
    try:
        return build()
    except BaseException as error:
        if isinstance(error, ExportError) or not (isinstance(error, Exception) or type(error).__name__ == PANIC):
            raise
        raise ExportError(f"{message} ({str(error)[:200]})", hint=AGAIN) from error
