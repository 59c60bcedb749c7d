"""Where a verification's files go: outside the bundle, which stays as it is, and checked before the work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dsr_export.errors import ExportError
from dsr_export.reports.junit import junit
from dsr_export.reports.markdown import markdown_table
from dsr_export.reports.page import report_page
from dsr_export.reports.record import Report
from dsr_export.storage.atomic import atomic_file
from dsr_export.storage.output_target import check_target


@dataclass(frozen=True, kw_only=True)
class ReportOutputs:
    """Files that were asked for."""

    junit: Path | None = None
    html: Path | None = None
    markdown: Path | None = None

    def check(self, bundle: Path, trust: Sequence[Path] = ()) -> None:
        """Raises ExportError where a file would go into the bundle, onto a key or the other one, or nowhere."""
        files = {"--junit": self.junit, "--html": self.html, "--markdown": self.markdown}
        asked = {name: path for name, path in files.items() if path is not None}
        check_report_files(asked, bundle_and_keys(bundle, trust))

    def write(self, report: Report) -> None:
        """Each file whole or not at all. Raises ExportError where one can't be written."""
        if self.junit is not None:
            write_report(self.junit, junit(report))
        if self.html is not None:
            write_report(self.html, report_page(report))
        if self.markdown is not None:
            write_report(self.markdown, markdown_table(report))


def bundle_and_keys(bundle: Path, trust: Sequence[Path]) -> dict[str, Path]:
    """What a command reads that opens a bundle, by what it is called."""
    return {"the bundle": bundle, **{f"--trust {path}": path for path in trust}}


def check_report_files(asked: Mapping[str, Path], read: Mapping[str, Path]) -> None:
    """Files by option. Raises ExportError where one would go into what is `read`, onto another one, or nowhere.

    `read` are files and folders by what they are called: a command leaves these as they are.
    """
    for name, path in asked.items():
        for what, source in read.items():
            if path.resolve().is_relative_to(source.resolve()):
                where = "is" if path.resolve() == source.resolve() else "lies in"
                raise ExportError(f"{name} {path} {where} {what}, which is left as it is", hint="write it elsewhere")
        if path.is_dir() or not path.parent.is_dir():
            problem = "is a folder" if path.is_dir() else f"lies in {path.parent}, which is no folder"
            raise ExportError(f"{name} {path} {problem}", hint="give the path of a file in an existing folder")
        check_target(path)
    if len({path.resolve() for path in asked.values()}) < len(asked):
        listed = ", ".join(f"{name} {path}" for name, path in asked.items())
        raise ExportError(f"two outputs would go into the same file: {listed}", hint="give each its own")


def write_report(path: Path, content: str) -> None:
    """Whole or not at all. Raises ExportError where it can't be written."""
    with atomic_file(path) as temporary:
        temporary.write_text(content, encoding="utf-8")
