"""A share of a calibration on disk: a folder of statistics, and a sealed record of what they are and of their bytes.

FOLDER/share-2-of-7/part.json      made_for: everything that what was measured depends on, but the share
                   /0.npz ...      one for each activation, and kept.npz
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsr_export.declarations.share import Share
from dsr_export.errors import ExportError
from dsr_export.storage.canonical import parse_sealed, read_bounded, sealed_bytes
from graphs.digests import files_digest

RECORD = "part.json"
SCHEMA_VERSION = 1
MOST_SECTIONS = 1 << 16
_FIELDS = {"schema_version", "made_for", "share", "sections", "files", "activations", "kept"}
_GIVE = "give the folder that `build --calibration-only` wrote its shares into"


@dataclass(frozen=True)
class Part:
    """The share of a calibration in `folder`. `made_for` are JSON values: what every share of it has alike.

    `files` are the sha256 of each; `activations` name those of each activation, the one of what is counted first, and
    `kept` that of the calls. `sections` are those of the whole data.
    """

    folder: Path
    made_for: Mapping[str, Any]
    share: Share
    sections: int
    files: Mapping[str, str]
    activations: Mapping[str, Sequence[str]]
    kept: str

    def to_bytes(self) -> bytes:
        """The record."""
        content = {
            "schema_version": SCHEMA_VERSION,
            "made_for": dict(self.made_for),
            "share": [self.share.index, self.share.of],
            "sections": self.sections,
            "files": dict(self.files),
            "activations": {name: list(files) for name, files in self.activations.items()},
            "kept": self.kept,
        }
        return sealed_bytes(content)

    def file(self, name: str) -> Path:
        """The file `name`, its bytes checked. ExportError where they are not those that were written."""
        path = self.folder / name
        try:
            intact = path.is_file() and files_digest([path]) == self.files[name]
        except OSError as error:
            raise ExportError(f"{path} can't be read: {error.strerror}", hint=self.again) from error
        if not intact:
            raise ExportError(f"{path} is {'damaged' if path.exists() else 'missing'}", hint=self.again)
        return path

    @property
    def again(self) -> str:
        """How it is made once more."""
        return again(self.share, self.folder.parent)


def again(share: Share, folder: Path) -> str:
    """How a share is made, once more or at last."""
    option = f"--shard {share.index}/{share.of}"
    return f"measure it: the same command with --calibration-only {option} --force --out {folder}"


def read_part(folder: Path) -> Part:
    """The part in a folder, by its record alone. ExportError where that is missing, damaged, or of another version."""
    path = folder / RECORD
    try:
        value = parse_sealed(read_bounded(path), where=path)
    except ExportError as error:
        raise ExportError(error.message, hint=_measure_again(folder)) from error
    if value.keys() != _FIELDS or value["schema_version"] != SCHEMA_VERSION or not _has_form(value):
        raise ExportError(f"{path} is no record of this version", hint=_measure_again(folder))
    return Part(
        folder=folder,
        made_for=value["made_for"],
        share=Share(*value["share"]),
        sections=value["sections"],
        files=value["files"],
        activations=value["activations"],
        kept=value["kept"],
    )


def read_parts(paths: Sequence[Path]) -> list[Part]:
    """The parts at `paths`, each a part's folder or a folder of such, in the order of their shares.

    Raises:
        ExportError: no parts, one that can't be read, a share that is missing or there twice, shares of two splits.
    """
    parts = [read_part(folder) for path in paths for folder in part_folders(path)]
    first = parts[0]
    by_index: dict[int, Part] = {}
    for part in parts:
        _check_alike(part, first)
        if (twice := by_index.setdefault(part.share.index, part)) is not part:
            raise ExportError(
                f"{_said(part.share)} is there twice: {twice.folder} and {part.folder}", hint="leave one of them away"
            )
    missing = [index for index in range(1, first.share.of + 1) if index not in by_index]
    if missing:
        more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
        absent = Share(missing[0], first.share.of)
        raise ExportError(f"{_said(absent)} is missing{more}", hint=again(absent, first.folder.parent))
    return [by_index[index] for index in sorted(by_index)]


def _check_alike(part: Part, first: Part) -> None:
    hint = "give the shares of one calibration, all of one number"
    if part.share.of != first.share.of:
        said = f"{part.folder} is {_said(part.share)}, and {first.folder} {_said(first.share)}"
        raise ExportError(said, hint=hint)
    if part.sections != first.sections:
        said = f"{part.folder} is of data in {part.sections} sections, and {first.folder} in {first.sections}"
        raise ExportError(said, hint=hint)


def part_folders(path: Path) -> list[Path]:
    """The folder itself, where it is a part, or those of parts in it. ExportError where there is none."""
    if not path.is_dir():
        what = "is no folder" if path.exists() else "does not exist"
        raise ExportError(f"--calibration-parts {path} {what}", hint=_GIVE)
    if re.fullmatch(r"share-\d+-of-\d+", path.resolve().name) or (path / RECORD).exists():
        return [path]
    try:
        found = sorted(each for each in path.glob("share-*-of-*") if each.is_dir())
    except OSError as error:
        raise ExportError(f"--calibration-parts {path} can't be read: {error.strerror}", hint=_GIVE) from error
    if not found:
        raise ExportError(f"--calibration-parts {path} holds no share of a calibration", hint=_GIVE)
    return found


def _has_form(value: Mapping[str, Any]) -> bool:
    """Whether the fields are of the right kinds, and no name leads out of the folder."""
    share, sections, files = value["share"], value["sections"], value["files"]
    numbers = isinstance(share, list) and len(share) == 2 and all(type(each) is int for each in (*share, sections))
    if not (numbers and 1 <= share[0] <= share[1] and 1 <= sections <= MOST_SECTIONS):
        return False
    tables = all(isinstance(value[key], dict) for key in ("made_for", "files", "activations"))
    if not tables or not all(isinstance(each, str) for each in files.values()):
        return False
    if not all(isinstance(each, list) and each for each in value["activations"].values()):
        return False
    named = [*itertools.chain(*value["activations"].values()), value["kept"]]
    plain = all(re.fullmatch(r"[\w-]+\.npz", name) for name in files)
    return plain and all(isinstance(name, str) and name in files for name in named)


def _measure_again(folder: Path) -> str:
    match = re.fullmatch(r"share-(\d{1,6})-of-(\d{1,6})", folder.resolve().name)
    return _GIVE if match is None else again(Share(int(match[1]), int(match[2])), folder.parent)


def _said(share: Share) -> str:
    return f"share {share.index} of {share.of}"
