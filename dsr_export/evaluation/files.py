"""Where an evaluation's files go: checked before the work, each whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsr_export.config import ModelRequest
from dsr_export.errors import ExportError
from dsr_export.evaluation.junit import evaluation_junit
from dsr_export.evaluation.method_table import methods_dict, methods_page
from dsr_export.evaluation.methods import MethodResult
from dsr_export.evaluation.page import evaluation_page
from dsr_export.evaluation.references import PYTORCH
from dsr_export.evaluation.results import Evaluation
from dsr_export.reports.plain_json import plain
from dsr_export.reports.written_files import check_report_files, write_report
from dsr_export.sources.request_files import request_files
from dsr_export.storage.canonical import canonical_bytes


@dataclass(frozen=True, kw_only=True)
class EvaluationFiles:
    """Files that were asked for."""

    html: Path | None = None
    junit: Path | None = None
    output: Path | None = None

    def check(self, bundle: Path, given: Mapping[str, Any]) -> None:
        """Raises ExportError where a file would go into what the command reads, onto another one, or nowhere."""
        if given["methods"] and self.junit is not None:
            raise ExportError("--junit is of limits, and --methods takes none", hint="leave it away, or take --html")
        files = {"--html": self.html, "--junit": self.junit, "--output": self.output}
        asked = {name: path for name, path in files.items() if path is not None}
        own = {} if given["methods"] else {"the bundle": bundle}  # else it is the name of a model
        check_report_files(asked, own | _read(given))

    def write(self, found: Evaluation) -> None:
        """Raises ExportError where one can't be written."""
        if self.html is not None:
            write_report(self.html, evaluation_page(found))
        if self.junit is not None:
            write_report(self.junit, evaluation_junit(found))
        self._write_json(found.as_dict())

    def write_methods(self, found: Sequence[MethodResult]) -> None:
        """Raises ExportError where one can't be written."""
        if self.html is not None:
            write_report(self.html, methods_page(found))
        self._write_json(methods_dict(found))

    def _write_json(self, found: dict[str, Any]) -> None:
        if self.output is not None:
            write_report(self.output, canonical_bytes(plain(found)).decode())


def _read(given: Mapping[str, Any]) -> dict[str, Path]:
    """What an evaluation reads beside its bundle, by option."""
    request = ModelRequest(checkpoint=given["checkpoint"], dsr=given["dsr"], options=given["arguments"])
    paths = {f"--{name}": given[name] for name in ("data", "prompts", "decoder")}
    if given["reference"] not in (None, PYTORCH):
        paths["--reference"] = Path(given["reference"])
    paths |= {f"--network {metric}": path for metric, path in given["networks"].items()}
    paths |= {f"--trust {path}": path for path in given["trust"]}
    return {name: path for name, path in paths.items() if path is not None} | request_files(request)
