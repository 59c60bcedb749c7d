"""Which files of a tokenizer's folder go into a bundle."""

from __future__ import annotations

from pathlib import Path

from dsr_export.errors import ExportError

NAMES = (
    "added_tokens.json",
    "merges.txt",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)
VOCABULARIES = ("tokenizer.json", "vocab.json", "spiece.model", "tokenizer.model")
"""At least one of these says which tokens there are."""
LARGEST = 256 << 20


def tokenizer_files(folder: Path) -> tuple[Path, ...]:
    """The files. Raises ExportError where the folder holds no vocabulary, or one that is far too large."""
    found = tuple(folder / name for name in NAMES if (folder / name).is_file())
    if not any(file.name in VOCABULARIES for file in found):
        raise ExportError(
            f"{folder} holds no tokenizer: none of {', '.join(VOCABULARIES)}",
            hint="save the tokenizer there: tokenizer.save_pretrained(FOLDER)",
        )
    for file in found:
        if file.stat().st_size > LARGEST:
            raise ExportError(f"{file} has {file.stat().st_size} bytes, more than a tokenizer's file has")
    return found
