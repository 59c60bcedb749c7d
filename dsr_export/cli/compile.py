"""`dsr-export compile`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dsr_export.bundle.component_entries import ROLES
from dsr_export.cli.options.named import Named
from dsr_export.cli.options.trust import trust_option, trusted
from dsr_export.cli.printing.report import show_report
from dsr_export.cli.process.streams import Command, answer
from dsr_export.readable import readable


@click.command("compile", cls=Command)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--target", required=True, help="Where the engine will run; see `dsr-export doctor`.")
@click.option("--component", type=Named(*ROLES), help="Compile this component. [default: the bundle's own model]")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Bundle folder to write; BUNDLE itself, with --force, to replace it. [default: ./NAME-TARGET.dsr]",
)
@click.option(
    "--keep-if-faster",
    type=click.Path(path_type=Path),
    metavar="BUNDLE16",
    help="Keep BUNDLE only where its engine is 1.02x as fast on this GPU as that of BUNDLE16, the same model in a "
    "wider precision; else write BUNDLE16 with its engine.",
)
@click.option("--force", is_flag=True, help="Replace an existing folder.")
@trust_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, and nothing else.")
def command(
    bundle: Path,
    target: str,
    component: str | None,
    out: Path | None,
    keep_if_faster: Path | None,
    force: bool,
    trust: Any,
    as_json: bool,
) -> None:
    """Build an engine from BUNDLE's graph with the TensorRT of this machine; needs no torch.

    The result is a whole bundle: graph, golden vectors and components as they were, the engine added or replaced, and
    sealed again, without a signature. Where a GPU can run the engine, its numbers are checked, and exit code 3 means
    that they failed.
    """
    from dsr_export.progress import reporter
    from dsr_export.recompiling.recompile import CompileRequest, recompile
    from dsr_export.reports.record import Report

    request = CompileRequest(
        bundle=bundle,
        target=target,
        out=out,
        component=component,
        keep_if_faster=keep_if_faster,
        force=force,
        trust=trusted(trust),
    )
    made = recompile(request, reporter=reporter())
    report = Report.read(made.report()).changed(bundle=readable(str(made.path)))
    if not as_json:
        for name, facts in report.sections["compiled"].items():
            state = "verified here" if facts["verified"] else f"not run: {facts['not_run']}"
            size = f"{facts['plan_bytes'] / 1e6:.1f} MB"
            answer(f"engine {name}: {size}, {facts['tool']} {facts['version']}, {facts['seconds']:.1f} s, {state}")
            if (told := facts.get("keep_if_faster")) is not None:
                answer(_kept(told))
    show_report(report, as_json=as_json)


def _kept(told: dict[str, Any]) -> str:
    """What was measured, and what follows."""
    times = f"{told['lower']} takes {told['lower_ms']:.3f} ms, {told['wider']} {told['wider_ms']:.3f} ms"
    spread = f"{told['speedup_low']:.3f}-{told['speedup_high']:.3f}"
    reason = told["problem"] or f"at least {told['needed']}x is asked for"
    on = f"at batch {told['batch']} on {told['gpu']['name']}"
    return f"kept {told['kept']}: {times} {on}, {told['speedup']:.3f}x ({spread}); {reason}"
