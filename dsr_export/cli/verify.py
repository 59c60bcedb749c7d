"""`dsr-export verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dsr_export.cli.output import Named, show_report


@click.command("verify")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--runtime", type=Named("auto", "onnxruntime", "tensorrt", "tensorrt-rtx"), default="auto", show_default=True
)
@click.option("--markdown", type=click.Path(path_type=Path), metavar="F", help="Write the results as a table, for CI.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, and nothing else.")
def command(bundle: Path, runtime: Any, markdown: Path | None, as_json: bool) -> None:
    """Check BUNDLE: its hashes, its precision, and its numbers against FP32 PyTorch.

    Needs no torch, and writes nothing but the files asked for.
    """
    from dsr_export.markdown import check_outside, save_markdown
    from dsr_export.progress import reporter
    from dsr_export.verify import verify

    if markdown is not None:
        check_outside(markdown, bundle)
    report = verify(bundle, runtime=runtime, reporter=reporter())
    if markdown is not None:
        save_markdown(markdown, report)
    show_report(report, as_json=as_json)
