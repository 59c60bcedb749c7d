"""`build --matrix`: from the command line to receipts and files."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from dsr_export.declarations.share import Share
from dsr_export.fleet.building import Build, build_cells, check_fresh
from dsr_export.fleet.checking import cell_configs, check_cells, check_precisions
from dsr_export.fleet.files import check_files
from dsr_export.fleet.matrix import read_matrix
from dsr_export.fleet.receipts import Receipt
from dsr_export.fleet.request import FleetRequest
from dsr_export.fleet.summary import summary_markdown, summary_page
from dsr_export.progress import Reporter
from dsr_export.reports.written_files import write_report

OUT, STORAGE = Path("fleet"), "storage"
MOST_AT_ONCE = 64  # tasks that wait for a place in the cluster


def built_fleet(request: FleetRequest, shown: Reporter) -> list[Receipt]:
    """Checks all cells, builds those of the share that is asked for, and writes the summaries.

    Raises:
        ExportError: a summary would be written over what is read; a cell that `build` would refuse before it loads a
            model; and as `build_cells`.
    """
    out = request.out or OUT
    check_files(request, out, {})  # before a long matrix is read
    cells = read_matrix(request.matrix)
    share = None if request.cell is None else Share.parse(request.cell, option="--cell")
    with shown.stage("check"):
        configs = cell_configs(cells)
        check_precisions(configs, here=request.executor.kind == "local")
        check_files(request, out, configs)
        sources = check_cells(configs)
    chosen = cells if share is None else share.taken(cells)
    resume = request.resume or share is not None  # shares of one matrix go into one folder
    with ExitStack() as opened:
        build = _builder(request, out, resume, sources, opened)
        jobs = request.jobs or (1 if build is None else max(1, min(len(chosen), MOST_AT_ONCE)))
        name = None if share is None else str(share)
        given: dict[str, Any] = {"resume": resume, "jobs": jobs, "share": name, "sources": sources}
        receipts = build_cells(chosen, out, **given, shown=shown, build=build)
    if request.html is not None:
        write_report(request.html, summary_page(receipts))
    if request.markdown is not None:
        write_report(request.markdown, summary_markdown(receipts))
    return receipts


def _builder(
    request: FleetRequest, out: Path, resume: bool, sources: Mapping[str, str], opened: ExitStack
) -> Build | None:
    """None for processes of this machine. A cluster stays connected until `opened` ends."""
    if request.executor.kind == "local":
        return None
    from dsr_export.cluster.ray_driver import connected
    from dsr_export.cluster.storage import Storage
    from dsr_export.fleet.on_cluster import ClusterBuilder, run_name

    check_fresh(out, resume=resume)
    storage = Storage(request.executor.storage or str((out / STORAGE).resolve()))
    cluster = opened.enter_context(connected(request.executor.address, storage))
    return ClusterBuilder(cluster, run_name(out, resume=resume), str(Path.cwd()), sources)
