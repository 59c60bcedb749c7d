"""Which files of a model folder hold its weights: whole or sharded, plain or one variant. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from dsr_export.errors import ExportError
from graphs.foreign.small_files import read_json_object

Stems = Mapping[str, str]
"""Suffix -> what the names of its files begin with."""
_AGAIN = "copy or download it again"
_SHARD = re.compile(r"-\d{5}-of-\d{5}(?=\.)")


def weight_files(path: Path, stems: Stems) -> tuple[Path, ...]:
    """The plain weights in a folder, whole or sharded, of the first suffix; else the only variant that is there.

    `stems` are the names that the library gives such files, by suffix, in the order in which they are preferred.
    A variant's name stands before the suffix: `diffusion_pytorch_model.fp16.safetensors`, and in its index before
    the suffix too, or (as newer diffusers writes it) behind `index`.
    """
    for suffix, stem in stems.items():
        plain = _named(path, f"{stem}{suffix}", f"{stem}{suffix}.index.json")
        if plain:
            return plain
    for suffix, stem in stems.items():
        variants = _variants(path, stem, suffix)
        if len(variants) > 1:
            listed = ", ".join(variants)
            hint = "give the one meant with --checkpoint, or leave one in the folder"
            raise ExportError(f"{path} holds several variants of its weights: {listed}", hint=hint)
        if variants:
            indices = (f"{stem}{suffix}.index.{variants[0]}.json", f"{stem}.{variants[0]}{suffix}.index.json")
            return _named(path, f"{stem}.{variants[0]}{suffix}", *indices)
    return ()


def _named(path: Path, whole: str, *indices: str) -> tuple[Path, ...]:
    if (path / whole).is_file():
        return (path / whole,)
    index = next((path / name for name in indices if (path / name).is_file()), None)
    return () if index is None else _shards(index)


def _variants(path: Path, stem: str, suffix: str) -> list[str]:
    """`fp16` and the like, of whole files and of indices."""
    name, end = r"\.([\w-]+)", re.escape(suffix)
    forms = (f"{stem}{name}{end}", rf"{stem}{end}\.index{name}\.json", rf"{stem}{name}{end}\.index\.json")
    files = [each.name for each in path.iterdir() if not _SHARD.search(each.name)]
    return sorted({found[1] for file in files for form in forms if (found := re.fullmatch(form, file))})


def _shards(index: Path) -> tuple[Path, ...]:
    """The files an index names, which must lie beside it."""
    listed = read_json_object(index, hint=_AGAIN).get("weight_map")
    names = sorted({str(name) for name in listed.values()}) if isinstance(listed, dict) else []
    if not names:
        raise ExportError(f"{index} lists no weight files", hint=_AGAIN)
    for name in names:
        if Path(name).name != name or not (index.parent / name).is_file():
            raise ExportError(
                f"{index} lists '{name[:80]}', which does not lie beside it", hint="download the missing file"
            )
    return tuple(index.parent / name for name in names)
