"""Builds cells on the machines of a cluster, and brings the bundles home."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dsr_export.cluster.commands import Ended
from dsr_export.cluster.ray_driver import Cluster
from dsr_export.cluster.worker import Job
from dsr_export.errors import ExportError
from dsr_export.fleet.matrix import Cell
from dsr_export.storage.atomic import atomic_file
from dsr_export.storage.canonical import canonical_digest
from dsr_export.storage.made_with import source_digest

RUN = "run"


@dataclass(frozen=True)
class ClusterBuilder:
    """`run` is the name of this run of a matrix, and `folder` what the paths of cells are relative to.

    What a worker finished in the same run is brought home, and not built again.
    """

    cluster: Cluster
    run: str
    folder: str

    def __call__(self, cell: Cell, command: Sequence[str], log: Path) -> Ended:
        words, place = _apart(command)
        key = canonical_digest({"words": words, "folder": self.folder, "source": source_digest()})
        job = Job(words=words, folder=self.folder, record=f"{self.run}/{key}", kept="folder")
        try:
            done = self.cluster.run(job, cell.needs)
            if done.files:
                self.cluster.storage.get_folder(done.files, place)
        except ExportError as error:  # of this cell; the others go on
            done_log = f"error: {error.message}\nhint: {error.hint}\n"
            log.write_text(done_log, encoding="utf-8")
            return Ended(1, "", done_log)
        log.write_text(f"on {done.host}\n{done.log}", encoding="utf-8")
        return done.ended


def run_name(out: Path) -> str:
    """Of the run whose receipts are in `out`; its first start makes one up."""
    place = out / RUN
    if place.is_file() and (known := place.read_text(encoding="ascii", errors="replace").strip()).isalnum():
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
