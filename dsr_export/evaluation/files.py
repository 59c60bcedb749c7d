"""Where an evaluation's files go: checked before the work, each whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsr_export.evaluation.junit import evaluation_junit
from dsr_export.evaluation.method_table import methods_dict, methods_page
from dsr_export.evaluation.methods import MethodResult
from dsr_export.evaluation.page import evaluation_page
from dsr_export.evaluation.results import Evaluation
from dsr_export.reports.plain_json import plain
from dsr_export.reports.written_files import ReportOutputs, write_report
from dsr_export.storage.canonical import canonical_bytes


@dataclass(frozen=True, kw_only=True)
class EvaluationFiles:
    """Files that were asked for."""

    html: Path | None = None
    junit: Path | None = None
    output: Path | None = None

    def check(self, bundle: Path) -> None:
        """Raises ExportError where a file would go into the bundle, onto the other one, or nowhere."""
        ReportOutputs(html=self.html, junit=self.junit, markdown=self.output).check(bundle)

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
