"""What a manifest says of the pipeline around its model: which class, which parts, and the numbers between them.

The key `pipeline` is there only where a whole pipeline was built. Beside it the bundle holds `pipeline/`: the files of
its tokenizers and `scheduler_config.json`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from dsr_export.bundle.component_entries import TEXT_ENCODERS
from dsr_export.bundle.schema import Fields

KEY = FOLDER = "pipeline"
SCHEDULER = f"{FOLDER}/scheduler_config.json"
KEYS = ("class_name", "text", "vae", "settings")
LONGEST_CLASS = 128
MOST_TOKENS = 2**16
LARGEST_FACTOR = 1e6
LARGEST_SCALE = 1024  # pixels for a cell of the latent, a side


@dataclass(frozen=True, kw_only=True)
class TextRecord:
    """Which of the bundle's tokenizers makes the ids of a text encoder, and how many of them it takes."""

    tokenizer: str
    tokens: int


@dataclass(frozen=True, kw_only=True)
class VaeRecord:
    """A latent is `/ scaling_factor + shift_factor` before it is decoded; `scale` pixels are a cell's side."""

    scaling_factor: float
    shift_factor: float
    scale: int


@dataclass(frozen=True, kw_only=True)
class PipelineRecord:
    """`class_name` is diffusers'; `text` by role, empty where there are no prompts; `settings` are the class's own."""

    class_name: str
    text: Mapping[str, TextRecord] = field(default_factory=dict)
    vae: VaeRecord | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


def tokenizer_folder(name: str) -> str:
    """Where a tokenizer's files lie, relative to the bundle."""
    return f"{FOLDER}/{name}"


def read_pipeline(manifest: Fields, files: Collection[str]) -> PipelineRecord | None:
    """The record; None without the key. Raises ExportError for anything but what this writes."""
    if KEY not in manifest.values:
        return None
    read = manifest.child(KEY, KEYS)
    if SCHEDULER not in files:
        read.fail("class_name", f"a bundle with {SCHEDULER}")
    texts = Fields(read.name("text"), read.mapping("text"))
    return PipelineRecord(
        class_name=read.text("class_name", longest=LONGEST_CLASS),
        text={role: _text(texts, role, files) for role in texts.values},
        vae=None
        if read.values["vae"] is None
        else _vae(read.child("vae", ("scaling_factor", "shift_factor", "scale"))),
        settings=read.mapping("settings"),
    )


def _text(texts: Fields, role: str, files: Collection[str]) -> TextRecord:
    if role not in TEXT_ENCODERS:
        texts.fail(role, f"only the roles {', '.join(TEXT_ENCODERS)}")
    read = texts.child(role, ("tokenizer", "tokens"))
    tokenizer = read.text("tokenizer", longest=LONGEST_CLASS)
    if not any(name.startswith(f"{tokenizer_folder(tokenizer)}/") for name in files):
        read.fail("tokenizer", f"one whose files lie in {FOLDER}/")
    return TextRecord(tokenizer=tokenizer, tokens=read.integer("tokens", 1, MOST_TOKENS))


def _vae(read: Fields) -> VaeRecord:
    factor = read.number("scaling_factor", -LARGEST_FACTOR, LARGEST_FACTOR)
    if factor == 0:
        read.fail("scaling_factor", "another number than 0")
    shift = read.number("shift_factor", -LARGEST_FACTOR, LARGEST_FACTOR)
    return VaeRecord(scaling_factor=factor, shift_factor=shift, scale=read.integer("scale", 1, LARGEST_SCALE))
