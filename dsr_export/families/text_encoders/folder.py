"""A text encoder's folder on disk, and what a pipeline reads of the encoder. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsr_export.errors import ExportError
from dsr_export.families.config_bounds import check_config
from dsr_export.families.folder_weights import weight_files
from dsr_export.families.text_encoders.reads import Reads
from graphs.foreign.small_files import read_json_object

CONFIG = "config.json"
STEMS = {".safetensors": "model", ".bin": "pytorch_model"}
CLASSES = ("CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel", "Gemma2Model")
"""Classes of transformers that can be read here."""
MOST_TOKENS = 2**16


@dataclass(frozen=True, kw_only=True)
class TextEncoderFolder:
    """`path` holds `config.json`, and `weights`, whole or sharded; none where only a config is there."""

    path: Path
    class_name: str
    config: Mapping[str, Any]
    weights: tuple[Path, ...]

    @property
    def config_file(self) -> Path:
        return self.path / CONFIG

    @property
    def width(self) -> int:
        """Of its hidden states."""
        return int(self.config.get("hidden_size") or self.config.get("d_model") or 0)


def open_text_encoder(path: Path, class_name: str, *, own_weights: bool = True) -> TextEncoderFolder:
    """Reads what the folder declares; weight files are not looked for where `own_weights` are not wanted.

    Raises ExportError for a class that is not in `CLASSES`, and for sizes that no model has.
    """
    if class_name not in CLASSES:
        known = ", ".join(CLASSES)
        raise ExportError(f"{path} is a {class_name[:80]}, which is no text encoder known here", hint=f"known: {known}")
    config = read_json_object(path / CONFIG, hint="copy or download the folder again")
    check_config(config, str(path / CONFIG))
    return TextEncoderFolder(
        path=path, class_name=class_name, config=config, weights=weight_files(path, STEMS) if own_weights else ()
    )


def check_reads(folder: TextEncoderFolder, reads: Reads) -> None:
    """Raises ExportError for more tokens than the encoder has positions for, and for what its class has not."""
    most = folder.config.get("max_position_embeddings") if folder.class_name.startswith("CLIP") else None
    limit = most if type(most) is int else MOST_TOKENS
    if not 1 <= reads.tokens <= limit:
        raise ExportError(f"{folder.path} is asked for {reads.tokens} tokens, and takes 1 to {limit}")
    if reads.pooled and not folder.class_name.startswith("CLIP"):
        raise ExportError(f"{folder.path} is a {folder.class_name}, which has no pooled output")
