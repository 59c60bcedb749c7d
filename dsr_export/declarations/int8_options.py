"""What a quantised build is asked to do."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from calibration.method_names import METHOD_NAMES
from dsr_export.declarations.calibration_part import RECORD, part_folders
from dsr_export.declarations.share import Share
from dsr_export.errors import ExportError, did_you_mean
from dsr_export.limits import MOST_DIGITS, MOST_STEPS
from graphs.digests import bytes_digest, files_digest

TRAJECTORY = "trajectory"
RANDOM = "random:"
PROMPTS = ".txt"
GIVE = "give --calibration a folder or an npz file with the model's inputs by name"
MAX_IMAGES = 4096
MAX_RANK = 64


@dataclass(frozen=True, kw_only=True)
class Int8Options:
    """`data` is `trajectory`, a folder, an npz file, a text file of prompts, or `random:SEED`. `images` and `steps`
    bound a trajectory; of given prompts each has one.

    `tables` are calibration tables of earlier builds, merged and used instead of measuring again; `parts` folders of
    shares that were measured before. `share` is what is measured, and nothing is built. `budget_db` is the SNR that the
    output keeps, by wider formats for some GEMMs, FP16 at last (None: what the precision aims at by itself).
    """

    method: str = "outlier-aware"
    data: str = TRAJECTORY
    images: int = 4
    steps: int | None = None
    tables: tuple[Path, ...] = ()
    parts: tuple[Path, ...] = ()
    share: Share | None = None
    budget_db: float | None = None
    rank: int | None = None

    def __post_init__(self) -> None:
        if self.method not in METHOD_NAMES:
            guess = did_you_mean(self.method, METHOD_NAMES) or ""
            raise ExportError(
                f"there is no calibration method '{self.method}'",
                hint=f"{guess} known: {', '.join(METHOD_NAMES)}".strip(),
            )
        if not 1 <= self.images <= MAX_IMAGES:
            raise ExportError(f"{self.images} calibration images are asked for", hint=f"give 1 to {MAX_IMAGES}")
        if self.steps is not None and not 2 <= self.steps <= MOST_STEPS:
            raise ExportError(f"{self.steps} calibration steps are asked for", hint=f"give 2 to {MOST_STEPS}")
        if self.rank is not None and not 0 <= self.rank <= MAX_RANK:
            raise ExportError(f"branches of rank {self.rank} are asked for", hint=f"give 0 to {MAX_RANK}")
        ways = {"table": self.tables, "parts": self.parts, "only": self.share}
        if len(asked := [f"--calibration-{name}" for name, value in ways.items() if value]) > 1:
            raise ExportError(f"{asked[0]} does not go with {asked[1]}", hint="leave one of them away")

    @property
    def seed(self) -> int | None:
        """The seed of random data, None for any other kind."""
        if not self.data.startswith(RANDOM):
            return None
        text = self.data.removeprefix(RANDOM)
        if not text.isdecimal() or len(text) > MOST_DIGITS:
            raise ExportError(f"--calibration {self.data[:80]} has no seed", hint="write random:0")
        return int(text)

    @property
    def data_path(self) -> Path | None:
        """The folder or file of `data`; None for what is drawn."""
        return None if self.data == TRAJECTORY or self.seed is not None else Path(self.data)

    @property
    def prompts_path(self) -> Path | None:
        """The file of prompts that `data` is; None for any other kind."""
        path = self.data_path
        return path if path is not None and path.suffix.lower() == PROMPTS and not path.is_dir() else None

    def without_budget(self) -> Int8Options:
        """The same calibration, whatever is made of it."""
        return replace(self, budget_db=None)

    def of_data(self) -> Int8Options:
        """What is measured, whoever does so and whatever is made of it."""
        return replace(self, budget_db=None, parts=(), share=None, rank=None)

    def stage_key(self) -> dict[str, Any]:
        """What the options are known by: files count by content."""
        paths = [] if self.data_path is None else _files(self.data_path)
        return {
            "method": self.method,
            "data": self.data if not paths else _digest(paths),
            "images": self.images,
            "steps": self.steps,
            "tables": _digest([*self.tables]),
            "parts": _digest([folder / RECORD for path in self.parts for folder in part_folders(path)]),
            "share": None if self.share is None else str(self.share),
            "budget": self.budget_db,
            "rank": self.rank,
        }


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(each for each in path.iterdir() if each.is_file())
    if not path.is_file():
        raise ExportError(
            f"no such calibration data: {path}",
            hint="give --calibration trajectory, a folder, an npz file, or a text file of prompts",
        )
    return [path]


def _digest(paths: list[Path]) -> str:
    return bytes_digest(*(os.fsencode(path.suffix) + _content(path) for path in paths))


def _content(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise ExportError(f"{path} is no regular file", hint="check the path")
        return bytes.fromhex(files_digest([path]))
    except OSError as error:
        raise ExportError(f"{path} can't be read: {error.strerror}", hint="check the path") from error
