"""A receipt of each cell: what was asked, with which versions, and what came of it. Written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from dsr_export.errors import ExportError
from dsr_export.fleet.matrix import Cell
from dsr_export.reports.plain_json import plain
from dsr_export.storage.atomic import atomic_file
from dsr_export.storage.canonical import canonical_bytes, parse_json, read_bounded
from dsr_export.version import __version__

Verdict = Literal["passed", "parity failed", "not built"]
FOLDER, BUNDLES, LOGS = "receipts", "bundles", "logs"
VERDICTS: Mapping[int, Verdict] = {0: "passed", 3: "parity failed"}
"""By exit code of `build`; any other one is of a cell that was not built."""


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """`command` are the words behind `dsr-export`; `source` identifies what the cell reads.

    `digest` is the bundle's, if any. `snr_db` is the lowest of all comparisons; `launches` and `moved_bytes` are by
    engine, where its plan could be read.
    """

    cell: str
    values: Mapping[str, Any]
    command: tuple[str, ...]
    version: str = __version__
    source: str | None = None
    exit_code: int
    verdict: Verdict
    error: str | None = None
    seconds: float = 0.0
    bundle: str | None = None
    digest: str | None = None
    bundle_bytes: int | None = None
    snr_db: float | None = None
    launches: Mapping[str, int] = field(default_factory=dict)
    moved_bytes: Mapping[str, int] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)

    def save(self, out: Path) -> None:
        """Into `out`. ExportError where it can't be written."""
        path = receipt_path(out, self.cell)
        with atomic_file(path) as temporary:
            temporary.write_bytes(canonical_bytes(plain(asdict(self))))


def receipt_path(out: Path, cell: str) -> Path:
    return out / FOLDER / f"{cell}.json"


def read_receipt(out: Path, cell: str) -> Receipt | None:
    """The cell's receipt; None where it has none. ExportError for a file that is none."""
    path = receipt_path(out, cell)
    if not path.is_file():
        return None
    value = parse_json(read_bounded(path), where=path)
    try:
        return Receipt(**{**value, "command": tuple(value["command"])})
    except (TypeError, KeyError) as error:
        raise ExportError(f"{path} is no receipt", hint="remove it; its cell is then built again") from error


def finished(receipt: Receipt | None, cell: Cell, command: Sequence[str], source: str | None, out: Path) -> bool:
    """Whether the cell need not be built again: it was, by this version, as asked, of the same files (`source`), and
    its bundle is as it was left.
    """
    if receipt is None or receipt.verdict == "not built":
        return False
    made, wanted = (receipt.cell, receipt.version, receipt.source), (cell.name, __version__, source)
    if made != wanted or list(receipt.command) != list(command):
        return False
    return receipt.bundle is not None and receipt.digest == bundle_digest(out / receipt.bundle)


def bundle_digest(bundle: Path) -> str | None:
    """The digest of a bundle's manifest, after every file was held to it; None where one is not as it says."""
    from dsr_export.bundle.reader import Bundle

    try:
        return Bundle.open(bundle).manifest.digest
    except ExportError:
        return None


def figures(bundle: Path, answer: str) -> dict[str, Any]:
    """Of a built bundle: the fields of `Receipt` that its report and the answer of `build --json` tell."""
    found = json.loads(answer)
    rows = [row["snr_db"] for row in found.get("parity", []) if row.get("snr_db") is not None]
    schedules = {name: each.get("schedule") for name, each in found.get("engines", {}).items()}
    known = {name: schedule for name, schedule in schedules.items() if schedule}
    sizes = [path.stat().st_size for path in bundle.rglob("*") if path.is_file()]
    return {
        "digest": bundle_digest(bundle),
        "bundle_bytes": sum(sizes),
        "snr_db": min(rows, default=None),
        "launches": {name: len(schedule["launches"]) for name, schedule in known.items()},
        "moved_bytes": {name: int(schedule["moved_bytes"]) for name, schedule in known.items()},
        "tools": found.get("tools", {}),
    }
