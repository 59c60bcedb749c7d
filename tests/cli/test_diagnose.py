"""`dsr-export diagnose`, from the command line to the files."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dsr_export.declarations.dsr_file import read_dsr_file
from dsr_export.families import load_subject
from tests.conftest import Cli
from tests.html.reading import check_document

SHORT = ("--count", "1", "--steps", "2")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_denoiser_is_diagnosed_without_any_option(here: Path, cli: Cli) -> None:
    done = cli("diagnose", "digits-outliers", *SHORT, "--write-dsr", "mine.toml", "--json")
    assert done.code == 0, done.err
    made = json.loads(done.out)
    assert made["outliers"] is True
    assert made["verdict"]["headline"].startswith("Outlier tokens at 4 of 64 positions")
    folder = here / "digits-outliers.diagnosis"
    assert (
        made["files"]
        == sorted(entry.name for entry in folder.iterdir())
        == ["diagnosis.json", "dsr.toml", "index.html"]
    )
    assert {"image", "svg", "table"} <= check_document((folder / "index.html").read_text())
    record = json.loads((folder / "diagnosis.json").read_text(), parse_constant=pytest.fail)
    assert record["schema_version"] == 1
    assert [layer["outlier_patches"] for layer in record["layers"]] == [[0, 7, 56, 63]] * 8
    assert [run["name"] for run in record["runs"]] == ["off", "own", "proposed"]
    assert read_dsr_file(here / "mine.toml").spec == read_dsr_file(folder / "dsr.toml").spec


def test_the_next_command_is_one_that_exists_and_the_file_is_taken(here: Path, cli: Cli) -> None:
    cli("diagnose", "digits-outliers", *SHORT)
    command = shlex.split(
        json.loads((here / "digits-outliers.diagnosis/diagnosis.json").read_text())["verdict"]["command"]
    )
    assert command == ["dsr-export", "build", "digits-outliers", "--dsr", "digits-outliers.diagnosis/dsr.toml"]
    again = cli("diagnose", "digits-outliers", "--dsr", command[-1], *SHORT, "--out", "again", "--json")
    assert again.code == 0, again.err
    record = json.loads((here / "again/diagnosis.json").read_text())
    own = next(run for run in record["runs"] if run["name"] == "own")
    assert own["sites"] == [0]
    assert not np.any(own["ratios"])


def test_the_same_seed_writes_the_same_bytes(here: Path, cli: Cli) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert cli("diagnose", "digits", *SHORT, "--seed", seed, "--out", name).code == 0
    for file in ("diagnosis.json", "index.html"):
        texts = [(here / name / file).read_text() for name in "abc"]
        assert texts[0] == texts[1] != texts[2]


def test_the_text_says_what_the_page_says(here: Path, cli: Cli) -> None:
    done = cli("diagnose", "digits", *SHORT)
    assert done.out.startswith("No outlier tokens: there is nothing to replace.\n")
    assert "page: digits.diagnosis/index.html" in done.out
    assert done.out.rstrip().endswith("next: dsr-export build digits")
    assert not (here / "digits.diagnosis/dsr.toml").exists()


@pytest.fixture
def siglip(here: Path) -> Path:
    """A tiny random SigLIP tower as a Hugging Face folder, and a folder with two pictures."""
    transformers = pytest.importorskip("transformers", reason="the models extra is not installed")
    torch.manual_seed(0)
    sizes = {"image_size": 32, "patch_size": 8, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = transformers.SiglipVisionConfig(intermediate_size=64, **sizes)
    transformers.SiglipVisionModel(config).save_pretrained(here / "tower")
    (here / "pictures").mkdir()
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 255, (40, 50, 3), np.uint8)
        Image.fromarray(pixels).save(here / f"pictures/{i}.png")
    return here / "tower"


def test_an_encoder_gets_a_neuron_table_that_a_build_takes(siglip: Path, here: Path, cli: Cli) -> None:
    options = (
        "--checkpoint",
        "tower",
        "--images",
        "pictures",
        "--threshold",
        "4",
        "--top-k",
        "3",
        "--highest-layer",
        "1",
    )
    done = cli("diagnose", "siglip", *options, "--out", "out", "--write-dsr", "mine.toml", "--json")
    assert done.code == 0, done.err
    made = json.loads(done.out)
    record = json.loads((here / "out/diagnosis.json").read_text(), parse_constant=pytest.fail)
    check_document((here / "out/index.html").read_text())
    assert (record["stage"], record["detect_layer"], len(record["layers"])) == ("encoder", 2, 3)
    assert record["settings"] == {"detect_layer": -1, "threshold": 4.0, "highest_layer": 1, "top_k": 3, "rounds": 1}
    assert record["outliers"] is True
    assert sum(len(neurons) for neurons in made["neurons"].values()) == 3
    neurons = {int(layer): tuple(indices) for layer, indices in made["neurons"].items()}
    assert dict(read_dsr_file(here / "out/dsr.toml").spec.encoder.neurons) == neurons
    assert dict(read_dsr_file(here / "mine.toml").spec.encoder.neurons) == neurons
    command = shlex.split(made["verdict"]["command"])
    assert command == ["dsr-export", "build", "siglip", "--checkpoint", "tower", "--dsr", "out/dsr.toml"]
    assert load_subject("siglip", checkpoint=siglip, dsr=here / "out/dsr.toml").sites["ShiftRegisterNeurons"] == len(
        neurons
    )


def test_a_broken_picture_is_named_and_nothing_is_left(siglip: Path, here: Path, cli: Cli) -> None:
    (here / "pictures/1.png").write_bytes(b"no picture")
    done = cli("diagnose", "siglip", "--checkpoint", "tower", "--images", "pictures", "--out", "out")
    assert done.code == 1
    assert "pictures/1.png is no readable image" in done.err
    assert sorted(entry.name for entry in here.iterdir()) == ["pictures", "tower"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("digits", "--images", "x"), "--images is for an image encoder"),
        (("digits", "--top-k", "3"), "--top-k is for an image encoder"),
        (("rae-decoder-b", "--random-weights", "0"), "neither a denoiser"),
        (("digit",), "did you mean 'digits'?"),
        (("digits", "--out", "."), "other files"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: tuple[str, ...], said: str, here: Path, cli: Cli) -> None:
    (here / "mine.txt").write_text("mine")
    done = cli("diagnose", *arguments)
    assert done.code == 1
    assert said in done.err
    assert [entry.name for entry in here.iterdir()] == ["mine.txt"]


def test_a_foreign_folder_is_refused_before_the_work(here: Path, cli: Cli) -> None:
    (here / "out").mkdir()
    (here / "out/mine.txt").write_text("mine")
    done = cli("diagnose", "digits", "--out", "out")
    assert (done.code, (here / "out/mine.txt").read_text()) == (1, "mine")
    assert "--force" in done.err
