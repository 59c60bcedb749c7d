"""`dsr-export doctor`."""

from __future__ import annotations

import json

import click


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, and nothing else.")
def command(as_json: bool) -> None:
    """Show what is installed, and for each target whether it can be built and run here."""
    from dsr_export.installation import describe_installation

    facts = describe_installation()
    if as_json:
        click.echo(json.dumps(facts, sort_keys=True))
        return
    for name, version in facts["packages"].items():
        click.echo(f"{name:<20} {version or 'not installed'}")
    click.echo(f"{'GPU':<20} {'yes' if facts['gpu'] else 'none'}")
    click.echo(f"{'cache':<20} {facts['cache']}")
    for target in facts["targets"]:
        default = " (default)" if target["default"] else ""
        click.echo(f"target {target['name']:<13} {target['status']}{default}")
