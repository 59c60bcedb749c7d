"""Where the summaries of a matrix go: never over its file, its results, or what a cell reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dsr_export.config import ExportConfig
from dsr_export.declarations.int8_options import Int8Options
from dsr_export.fleet.checking import of_cell
from dsr_export.fleet.request import FleetRequest
from dsr_export.reports.written_files import check_report_files
from dsr_export.sources.request_files import request_files


def check_files(request: FleetRequest, out: Path, configs: Mapping[str, ExportConfig]) -> None:
    """Raises ExportError where a summary would go into what is read or made, onto the other one, or nowhere."""
    files = {"--html": request.html, "--markdown": request.markdown}
    asked = {name: path for name, path in files.items() if path is not None}
    if asked:
        check_report_files(asked, {"--matrix": request.matrix, "the folder of bundles": out, **_cell_files(configs)})


def _cell_files(configs: Mapping[str, ExportConfig]) -> dict[str, Path]:
    """What cells read, by option and cell: what many of them read is of the first."""
    found: dict[Path, str] = {}
    for name, config in configs.items():
        with of_cell(name):
            read = {**request_files(config), **{f"--component {path}": path for path in config.components}}
            for what, path in {**read, **_calibration(config.int8)}.items():
                found.setdefault(path, f"{what} of the cell {name}")
    return {what: path for path, what in found.items()}


def _calibration(asked: Int8Options) -> dict[str, Path]:
    tables = {f"--calibration-table {path}": path for path in asked.tables}
    parts = {f"--calibration-parts {path}": path for path in asked.parts}
    own = {} if asked.data_path is None else {"--calibration": asked.data_path}
    return {**own, **tables, **parts}
