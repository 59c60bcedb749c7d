"""`dsr-export verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dsr_export.cli.options.runtime import runtime_option
from dsr_export.cli.options.trust import trust_option, trusted
from dsr_export.cli.printing.report import show_report
from dsr_export.cli.process.streams import Command


@click.command("verify", cls=Command)
@click.argument("bundle", type=click.Path(path_type=Path))
@runtime_option
@click.option("--bisect", is_flag=True, help="Compare site by site even where all checks pass, as where one fails.")
@click.option("--junit", type=click.Path(path_type=Path), metavar="FILE", help="Also write the verdicts as JUnit XML.")
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Also write the report as a page.")
@click.option(
    "--markdown", type=click.Path(path_type=Path), metavar="FILE", help="Also write a table, for a CI summary."
)
@trust_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, and nothing else.")
def command(
    bundle: Path,
    runtime: Any,
    bisect: bool,
    junit: Path | None,
    html: Path | None,
    markdown: Path | None,
    trust: Any,
    as_json: bool,
) -> None:
    """Check BUNDLE: its hashes, its precision, and its numbers against FP32 PyTorch.

    Hashes find damage, not forgery: --trust asks for the signature of someone you know, before anything is read.

    Needs no torch, and writes nothing into the bundle.
    """
    from dsr_export.progress import reporter
    from dsr_export.reports.written_files import ReportOutputs
    from dsr_export.verification.verify import verified

    outputs = ReportOutputs(junit=junit, html=html, markdown=markdown)
    outputs.check(bundle, trust)
    report = verified(bundle, runtime=runtime, sites=bisect, reporter=reporter(), trust=trusted(trust))
    outputs.write(report)
    show_report(report, as_json=as_json)
