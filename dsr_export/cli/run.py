"""`dsr-export run`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dsr_export.bundle.component_entries import ROLES
from dsr_export.cli.options.named import Named
from dsr_export.cli.options.runtime import runtime_option
from dsr_export.cli.options.trust import trust_option, trusted
from dsr_export.cli.process.streams import Command, answer


@click.command("run", cls=Command)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--input", "source", type=click.Path(path_type=Path), required=True, help="npz with the model's inputs by name."
)
@click.option("--output", type=click.Path(path_type=Path), required=True, help="npz to write, outputs by name.")
@runtime_option
@click.option("--component", type=Named(*ROLES), help="Run this component, not the denoiser.")
@trust_option
def command(bundle: Path, source: Path, output: Path, runtime: Any, component: str | None, trust: Any) -> None:
    """Run BUNDLE once on the arrays of an npz file."""
    from dsr_export.backends.named_arrays import load_arrays, save_arrays
    from dsr_export.bundle.reader import Bundle
    from dsr_export.progress import reporter
    from dsr_export.reports.written_files import bundle_and_keys, check_report_files
    from dsr_export.storage.output_target import check_target

    check_target(output)
    check_report_files({"--output": output}, {**bundle_and_keys(bundle, trust), "--input": source})
    opened = Bundle.open(bundle, trust=trusted(trust))
    opened = opened.component(component) if component else opened
    inputs = load_arrays(source, opened.manifest.input_specs())
    with opened.runner(runtime, say=reporter().note) as runner:
        outputs = runner.infer(inputs)
    save_arrays(output, outputs)
    shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in outputs.items())
    answer(f"{output}: {shapes}")
