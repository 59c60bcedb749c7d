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
@click.option("--bisect", is_flag=True, help="Compare site by site even where all checks pass, as where one fails.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, and nothing else.")
def command(bundle: Path, runtime: Any, bisect: bool, as_json: bool) -> None:
    """Check BUNDLE: its hashes, its precision, and its numbers against FP32 PyTorch. Needs no torch, writes nothing."""
    from dsr_export.progress import reporter
    from dsr_export.verify import verify

    show_report(verify(bundle, runtime=runtime, sites=bisect, reporter=reporter()), as_json=as_json)
