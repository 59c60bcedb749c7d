"""What a declaration asks to be trained, and how it reads afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dsr_export.declarations.dsr_file import read_dsr_file
from dsr_export.errors import ExportError
from dsr_export.fitting.wish import TrainedFile, read_wish

SITE = '[[denoiser.replace]]\nlayers = [1, 2]\nrule = "median"\nthreshold = 4.0\n'
GATE = f'{SITE}choice = "gate"\nregisters = 8\n'


def _file(folder: Path, text: str) -> Path:
    path = folder / "dsr.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_number_of_registers_is_trained(tmp_path: Path) -> None:
    wish = read_wish(_file(tmp_path, GATE), own=0)
    assert wish.files == (TrainedFile(name="site-1.safetensors", count=8, gate=True, layers=(1, 2)),)
    assert wish.groups[0].registers == "site-1.safetensors"


def test_registers_of_a_model_without_any_are_inserted(tmp_path: Path) -> None:
    path = _file(tmp_path, "[denoiser]\nregisters = 16\nstart = 4\n")
    assert read_wish(path, own=0).files == (TrainedFile(name="registers.safetensors", count=16),)
    with pytest.raises(ExportError, match="leaves nothing to train"):
        read_wish(path, own=16)  # as `diagnose` declares the model's own


def test_registers_of_an_encoder_are_appended(tmp_path: Path) -> None:
    wish = read_wish(_file(tmp_path, '[encoder]\nkind = "appended"\nregisters = 4\n'), own=0)
    assert wish.files == (TrainedFile(name="registers.safetensors", count=4),)
    save_file({"registers": torch.zeros(4, 8)}, tmp_path / "registers.safetensors")
    spec = read_dsr_file(_file(tmp_path, wish.text)).spec.encoder
    assert (spec.kind, spec.registers, Path(spec.register_file).name) == ("appended", 4, "registers.safetensors")


def test_registers_of_the_models_own_are_declared(tmp_path: Path) -> None:
    """An ONNX graph of it does not say which rows are registers, and they would count in the median."""
    wish = read_wish(_file(tmp_path, GATE), own=4, start=2)
    save_file({"registers": torch.zeros(8, 4)}, tmp_path / "site-1.safetensors")
    made = read_dsr_file(_file(tmp_path, wish.text)).spec.denoiser
    assert (made.kind, made.registers, made.start, len(made.replace)) == ("diffusion", 4, 2, 1)


def test_files_of_the_users_are_kept(tmp_path: Path) -> None:
    save_file({"registers": torch.zeros(2, 4)}, tmp_path / "mine.safetensors")
    other = SITE.replace("[1, 2]", "[5]") + 'registers = "mine.safetensors"\n'
    wish = read_wish(_file(tmp_path, GATE + other), own=0)
    assert wish.kept == {"kept-2.safetensors": tmp_path / "mine.safetensors"}
    assert [group.registers for group in wish.groups] == ["site-1.safetensors", "kept-2.safetensors"]


def test_the_finished_declaration_says_the_same(tmp_path: Path) -> None:
    text = f'[denoiser]\nregisters = 3\nstart = 1\n{GATE}{SITE.replace("[1, 2]", "[0]")}choice = "clip"\n'
    wish = read_wish(_file(tmp_path, text), own=0)
    for file in wish.files:
        save_file({"registers": torch.zeros(file.count, 4)}, tmp_path / file.name)
    made = read_dsr_file(_file(tmp_path, wish.text))
    assert (made.spec.denoiser.registers, made.spec.denoiser.start) == (3, 1)
    assert made.register_file == tmp_path / "registers.safetensors"
    gate, clip = made.spec.denoiser.replace
    assert (gate.layers, gate.choice, Path(gate.registers).name) == ((1, 2), "gate", "site-1.safetensors")
    assert (clip.layers, clip.choice) == ((0,), "clip")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[denoiser]\n", "leaves nothing to train"),
        ("[denoiser]\nregisters = 4\n", "does not say where its registers enter"),
        ('[encoder]\nkind = "trained"\n', "leaves nothing to train"),
        ('[encoder]\nkind = "appended"\nregisters = 4\n' + GATE, r"\[encoder\] and \[denoiser\]"),
        ('[encoder]\nkind = "appended"\n', "lacks 'registers'"),
        ('[encoder]\nkind = "appended"\nregisters = 0\n', "registers = 0"),
        ('[encoder]\nkind = "appended"\nregisters = 2\nscale = 1.0\n', "takes no 'scale'"),
        ('[encoder]\nkind = "test-time"\nregister_file = "r"\n', "takes no 'register_file'"),
        (GATE.replace("= 8", "= 0"), "registers = 0"),
        (GATE.replace("= 8", "= -1"), "registers = -1"),
        (GATE.replace("= 8", "= 10000000"), "registers = 10000000"),
        (GATE.replace("= 8", "= true"), "registers = True"),
        (GATE.replace('"gate"', '"mask"'), "choice = 'mask' is unknown"),
        (GATE.replace('"median"', '"mean"'), "rule = 'mean' is unknown"),
    ],
)
def test_what_cannot_be_trained_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=message):
        read_wish(_file(tmp_path, text), own=0)


def test_a_build_refuses_what_is_yet_to_be_trained(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="8 registers that are yet to be trained") as caught:
        read_dsr_file(_file(tmp_path, GATE))
    assert "dsr-export fit" in str(caught.value.hint)
