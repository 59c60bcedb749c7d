"""What a machine of the cluster does: runs one command, and leaves what it made in the storage, a record last.

Imports no Ray: a driver calls it through a task. A record says that the command is over, and where its files are; who
finds one does not run the command again.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from dsr_export.cluster.commands import Ended, run_command
from dsr_export.cluster.storage import Storage
from dsr_export.storage.cache import cache_root
from dsr_export.storage.leftovers import scratch_folder

Kept = Literal["folder", "stages"]
THREADS = "OMP_NUM_THREADS"
_VERSION = """
from dsr_export.storage.made_with import source_digest
from dsr_export.version import __version__
print(__version__, source_digest())
"""
_MADE = {0, 3}  # exit codes of a command that made something


@dataclass(frozen=True, kw_only=True)
class Job:
    """`words` are what follows `dsr-export`, run in `folder`; `record` is the name of its record.

    Of kind `folder` it makes the folder of `--out`, which the job appends; of kind `stages` it measures, and its JSON
    answer names entries of the cache. `threads` is for libraries that count by an environment variable.
    """

    words: tuple[str, ...]
    folder: str
    record: str
    kept: Kept
    threads: str | None = None


@dataclass(frozen=True, kw_only=True)
class Done:
    """How it ended. `files` are in the storage, path -> sha256."""

    exit_code: int
    answer: str
    log: str
    host: str
    seconds: float = 0.0
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def ended(self) -> Ended:
        return Ended(self.exit_code, self.answer, self.log, self.seconds)


def run_job(job: Job, url: str) -> Done:
    """On the machine of a worker. ExportError where the storage cannot be used."""
    storage = Storage(url)
    if (known := finished(storage, job.record)) is not None:  # by a worker that was lost right behind it
        return known
    with scratch_folder("job") as scratch:
        made = scratch / "made"
        words = (*job.words, "--out", str(made)) if job.kept == "folder" else job.words
        if not Path(job.folder).is_dir():
            missing = (
                f"error: {socket.gethostname()} has no folder {job.folder}\nhint: give paths that all machines share\n"
            )
            return Done(exit_code=1, answer="", log=missing, host=socket.gethostname())
        began = time.monotonic()
        ended = run_command(words, scratch / "log", folder=job.folder, environment=_environment(job))
        seconds, files = time.monotonic() - began, dict[str, str]()
        if ended.exit_code in _MADE:
            files = storage.put_folder(made) if job.kept == "folder" else _stages(storage, ended.answer)
        done = Done(
            exit_code=ended.exit_code,
            answer=ended.answer,
            log=ended.log,
            host=socket.gethostname(),
            seconds=seconds,
            files=files,
        )
    if done.exit_code in _MADE:
        storage.put_record(job.record, asdict(done))
    return done


def finished(storage: Storage, record: str) -> Done | None:
    """What a job with this record came to; None where it is to be run."""
    found = storage.record(record)
    try:
        return None if found is None else Done(**found)
    except TypeError:  # a record of another version
        return None


def seen(url: str, record: str) -> dict[str, Any]:
    """Of a worker's machine: the version and digest of the package that its commands run, and what `record` holds."""
    words = [sys.executable, "-c", _VERSION]
    said = subprocess.run(words, capture_output=True, text=True, check=False, timeout=100).stdout.split()
    version = said if len(said) == 2 else ["none", ""]
    return {"version": version, "record": Storage(url).record(record), "host": socket.gethostname()}


def _environment(job: Job) -> dict[str, str]:
    """This process's, but for what Ray says of threads: figures are those of a process that was started by hand."""
    kept = {name: value for name, value in os.environ.items() if name != THREADS}
    return kept if job.threads is None else {**kept, THREADS: job.threads}


def _stages(storage: Storage, answer: str) -> dict[str, str]:
    """The entries of the cache that a command names as `stages`, by their places in it."""
    root, files = cache_root(), dict[str, str]()
    for place in json.loads(answer)["stages"]:
        files |= {f"{place}/{name}": digest for name, digest in storage.put_folder(root / place).items()}
    return files
