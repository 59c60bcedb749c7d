"""`dsr-export inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dsr_export.cli.options.trust import trust_option, trusted
from dsr_export.cli.process.streams import Command, answer, answer_json


@click.command("inspect", cls=Command)
@click.argument("path", type=click.Path(path_type=Path))
@trust_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, and nothing else.")
def command(path: Path, trust: Any, as_json: bool) -> None:
    """Show what is in a bundle, an ONNX file or a TensorRT-RTX plan at PATH. Runs nothing and deserialises no plan."""
    from dsr_export.bundle.inspection import inspect_bundle, inspect_onnx, inspect_plan

    files = {".onnx": inspect_onnx, ".plan": inspect_plan}
    of_file = files.get(path.suffix.lower())
    facts = of_file(path) if of_file is not None else inspect_bundle(path, trust=trusted(trust))
    if as_json:
        answer_json(facts)
    else:
        _print(facts, "")


def _print(facts: dict[str, Any], indent: str) -> None:
    for key, value in facts.items():
        if isinstance(value, dict) and value:
            answer(f"{indent}{key}:")
            _print(value, indent + "  ")
        elif isinstance(value, list | tuple) and value and isinstance(value[0], dict):
            for entry in value:
                answer(f"{indent}{key}: " + "  ".join(f"{k}={v}" for k, v in entry.items()))
        else:
            answer(f"{indent}{key}: {value}")
