"""`--option NAME=VALUE`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from dsr_export.cli.build import command as build
from dsr_export.cli.options.arguments import argument_options, value_of


@argument_options
@click.command()
def command(arguments: dict[str, Any]) -> None:
    click.echo(repr(arguments))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("-1", -1),
        ("0.5", 0.5),
        ("1e-6", 1e-6),
        ("true", True),
        ("16x12", "16x12"),
        ("1,2", "1,2"),
        ("1_0", "1_0"),
    ],
)
def test_what_a_text_stands_for(text: str, value: Any) -> None:
    found = value_of(text)
    assert (found, type(found)) == (value, type(value))


def test_several_are_one_dictionary() -> None:
    made = CliRunner().invoke(command, ["--option", "image_size=256", "--option", "plus_mean=false"])
    assert made.output == "{'image_size': 256, 'plus_mean': False}\n"


@pytest.mark.parametrize("words", [["image_size"], ["=3"], ["a-b=3"], ["a="], ["a=1", "a=2"]])
def test_what_is_no_option(words: list[str]) -> None:
    made = CliRunner().invoke(command, [each for word in words for each in ("--option", word)])
    assert made.exit_code == 2
    assert "NAME=VALUE" in made.output or "given twice" in made.output


def test_a_size_reaches_a_diffusers_model(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"_class_name": "SanaTransformer2DModel", "num_layers": 1}')
    asked = ["--model-dir", str(folder), "--random-weights", "0", "--option", "latent_hight=4"]
    done = CliRunner().invoke(build, [*asked, "--out", str(tmp_path / "out")])
    assert "has no option 'latent_hight'" in str(done.exception)
