"""`dsr-export doctor`."""

from __future__ import annotations

import click

from dsr_export.cli.process.streams import Command, answer, answer_json


@click.command("doctor", cls=Command)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, and nothing else.")
def command(as_json: bool) -> None:
    """Show what is installed, and for each target whether it can be built and run here."""
    from dsr_export.backends.installation import describe_installation
    from dsr_export.torch_versions import install_torch

    facts = describe_installation()
    if as_json:
        answer_json(facts)
        return
    for name, version in facts["packages"].items():
        answer(f"{name:<20} {version or 'not installed'}")
        if name == "torch" and facts["torch_problem"]:
            answer(f"{'':<20} {facts['torch_problem']}: {install_torch()}")
    answer(f"{'GPU':<20} {facts['gpu_problem'] or 'yes'}")
    answer(f"{'onnxruntime-cuda':<20} {facts['cuda_provider_problem'] or 'runs here'}")
    answer(f"{'cache':<20} {facts['cache']}")
    for target in facts["targets"]:
        default = " (default)" if target["default"] else ""
        answer(f"target {target['name']:<13} {' '.join(target['precisions'])}: {target['status']}{default}")
