"""`--runtime`, the same for every command that runs a bundle."""

from __future__ import annotations

import click

from dsr_export.backends.runtime_names import RUNTIMES
from dsr_export.cli.options.named import Named

runtime_option = click.option(
    "--runtime",
    type=Named(*RUNTIMES),
    default="auto",
    show_default=True,
    help="Where it runs; auto takes an engine where a GPU here can run one. onnxruntime-cuda is the graph on a GPU.",
)
