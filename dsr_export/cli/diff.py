"""`dsr-export diff`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dsr_export.cli.exit_codes import exit_unless
from dsr_export.cli.options.trust import trust_option, trusted
from dsr_export.cli.process.streams import Command, answer, answer_json


@click.command("diff", cls=Command)
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option(
    "--tolerance-db",
    type=click.FloatRange(min=0),
    default=3.0,
    show_default=True,
    help="How far an SNR may drop; one that stays in the range of rounding may drop further.",
)
@click.option(
    "--html", type=click.Path(path_type=Path), metavar="FILE", help="Also write a page: engines block by block."
)
@trust_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, and nothing else.")
def command(a: Path, b: Path, tolerance_db: float, html: Path | None, trust: Any, as_json: bool) -> None:
    """Show how bundle B differs from bundle A: manifest, graph, weights, parity, engines, and what both compute.

    Runs both on A's golden inputs in ONNX Runtime; needs no torch. Exit code 3 where B is worse: other inputs or
    outputs, a check that passed and now fails, or an SNR that dropped by more than --tolerance-db to below what
    rounding explains: 60 dB, or where both bundles are FP16 56 dB, BF16 38 dB.
    """
    from dsr_export.diff.bundles import diff_bundles
    from dsr_export.diff.page import diff_page
    from dsr_export.diff.text import diff_lines
    from dsr_export.progress import reporter
    from dsr_export.reports.written_files import ReportOutputs, write_report

    for bundle in (a, b):
        ReportOutputs(html=html).check(bundle, trust)
    found = diff_bundles(a, b, margin_db=tolerance_db, reporter=reporter(), trust=trusted(trust))
    if html is not None:
        write_report(html, diff_page(found))
    if as_json:
        answer_json(found)
    else:
        answer("\n".join(diff_lines(found)))
    exit_unless(not found["regressions"])
