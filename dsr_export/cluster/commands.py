"""Runs `dsr-export` in a process of its own, which ends with this one."""

from __future__ import annotations

import ctypes
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PROGRAM = (sys.executable, "-m", "dsr_export")
LONGEST_ERROR = 500
_ERROR = re.compile(r"^[Ee]rror: (.*)$", re.M)


@dataclass(frozen=True)
class Ended:
    """A command that is over. `seconds` is what it took, where that is known apart from waiting."""

    exit_code: int
    answer: str
    log: str
    seconds: float | None = None


def run_command(
    words: Sequence[str], log: Path, *, folder: str | None = None, environment: Mapping[str, str] | None = None
) -> Ended:
    """`dsr-export` with these words, in `folder`. Its stderr goes to `log` as it comes."""
    with log.open("w+", encoding="utf-8", errors="replace") as stream:
        done = subprocess.run(
            [*PROGRAM, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stream,
            encoding="utf-8",
            errors="replace",
            check=False,
            cwd=folder,
            env=None if environment is None else dict(environment),
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )
        stream.seek(0)
        return Ended(done.returncode, done.stdout, stream.read())


def last_error(ended: Ended) -> str:
    """What a command that failed told of, or how it ended."""
    told = _ERROR.findall(ended.log)
    if told:
        return str(told[-1])[:LONGEST_ERROR]
    if ended.exit_code < 0:
        return f"it was ended by {signal.Signals(-ended.exit_code).name}: see its log"
    return f"it ended with exit code {ended.exit_code}: see its log"


def _end_with_parent() -> None:
    """A driver that is killed takes its commands along: else the next one would find their outputs locked."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
