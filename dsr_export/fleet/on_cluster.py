"""Builds cells on the machines of a cluster, and brings the bundles home."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from dsr_export.cluster.commands import Ended
from dsr_export.cluster.ray_driver import Cluster
from dsr_export.cluster.worker import Done, Job
from dsr_export.errors import ExportError
from dsr_export.fleet.matrix import Cell
from dsr_export.storage.atomic import atomic_file
from dsr_export.storage.canonical import canonical_digest
from dsr_export.storage.made_with import source_digest, tool_versions

RUN = "run"


@dataclass(frozen=True)
class ClusterBuilder:
    """`run` is the name of this run of a matrix, `folder` what the paths of cells are relative to, and `sources` are
    what identifies all that is read, by cell.

    What a worker finished in the same run is brought home, and not built again.
    """

    cluster: Cluster
    run: str
    folder: str
    sources: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, cell: Cell, command: Sequence[str], log: Path) -> Ended:
        words, place = _apart(command)
        made_with = {"source": source_digest(), "tools": tool_versions(), "reads": self.sources.get(cell.name)}
        key = canonical_digest({"words": words, "folder": self.folder, **made_with})
        job = Job(words=words, folder=self.folder, record=f"{self.run}/{key}", kept="folder")
        try:
            done = self.cluster.brought(job, cell.needs, partial(self._home, place))
        except ExportError as error:  # of this cell; the others go on
            done_log = f"error: {error.message}\nhint: {error.hint}\n"
            log.write_text(done_log, encoding="utf-8")
            return Ended(1, "", done_log)
        log.write_text(f"on {done.host}\n{done.log}", encoding="utf-8")
        return done.ended

    def _home(self, place: Path, done: Done) -> None:
        if done.files:
            self.cluster.storage.get_folder(done.files, place)


def run_name(out: Path, *, resume: bool) -> str:
    """Of the run whose receipts are in `out`; its first start makes one up, and so does one that resumes nothing."""
    place = out / RUN
    if resume and place.is_file() and (known := place.read_text(encoding="ascii", errors="replace").strip()).isalnum():
        return known
    made = secrets.token_hex(16)
    place.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(place) as temporary:
        temporary.write_text(made, encoding="ascii")
    return made


def _apart(command: Sequence[str]) -> tuple[tuple[str, ...], Path]:
    """The words without `--out PATH`, and the path."""
    at = command.index("--out")
    return (*command[:at], *command[at + 2 :]), Path(command[at + 1])
