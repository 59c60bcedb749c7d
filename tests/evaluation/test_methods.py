"""One model under each treatment of its outliers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from dsr_export.config import ModelRequest
from dsr_export.evaluation.method_engines import engine_dict, engine_figures
from dsr_export.evaluation.methods import declared_model
from dsr_export.evaluation.treatments import changed_groups, treated
from dsr_export.families import load
from dsr_export.spec import ReplaceSpec
from tests.conftest import Cli
from tests.pipeline_parts import DENOISER

SIZES = {name: value for name, value in DENOISER.items() if name != "register_start"}
DECLARED = """
[denoiser]
kind = "diffusion"
registers = 4
start = 1
[[denoiser.replace]]
layers = [1]
rule = "median"
threshold = 1.5
"""
SITES = (ReplaceSpec(layers=(3, 5), rule="median", threshold=4.0, rounds=3),)


@pytest.mark.parametrize(
    ("method", "wanted"),
    [
        ("none", []),
        ("mask", [("mask", 1)]),
        ("clip", [("clip", 1)]),
        ("nearest", [("nearest", 1)]),
        ("recursive", [("nearest", 3)]),
    ],
)
def test_a_method_changes_what_happens_at_the_declared_sites(method: str, wanted: list[tuple[str, int]]) -> None:
    groups = changed_groups(SITES, method)
    assert [(group.choice, group.rounds) for group in groups] == wanted
    assert all((group.layers, group.rule, group.threshold) == ((3, 5), "median", 4.0) for group in groups)


def test_recursion_takes_at_least_two_rounds() -> None:
    once = (ReplaceSpec(layers=(1,), rule="absolute", threshold=1.0),)
    assert changed_groups(once, "recursive")[0].rounds == 2


def test_the_table_of_methods_comes_from_one_command(cli: Cli, tmp_path: Path) -> None:
    files = ("--html", tmp_path / "made.html", "-o", tmp_path / "made.json")
    few = ("--count", "72", "--steps", "2", "--guidance", "1")
    done = cli("evaluate", "digits-outliers", "--methods", *few, *files)
    assert done.code == 0, done.err
    made = json.loads((tmp_path / "made.json").read_text())
    found, outliers = made["methods"], made["outliers"]
    assert outliers["none"] > 0.05 > outliers["nearest"] and outliers["none"] > outliers["clip"]
    methods = ["none", "mask", "clip", "nearest", "recursive"]
    assert methods == [line.split()[0] for line in done.out.splitlines()[1:]]
    assert set(found) == set(methods)
    assert found["none"]["fid"]["difference"]["value"] == 0
    assert found["mask"]["fid"]["value"] != found["none"]["fid"]["value"]
    assert found["nearest"]["fid"]["value"] != found["mask"]["fid"]["value"]
    assert (tmp_path / "made.html").read_text().count("<img") == len(methods)


@pytest.mark.slow
def test_what_methods_cost_stands_beside_their_pictures(cli: Cli, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the rtx extra")
    few = ("--metrics", "class-accuracy", "--count", "4", "--steps", "2", "--roofline", "orin-agx, l4")
    done = cli("evaluate", "digits-gated", "--methods", *few, "--html", tmp_path / "m.html", "-o", tmp_path / "m.json")
    assert done.code == 0, done.err
    engines = json.loads((tmp_path / "m.json").read_text())["engines"]
    launches = {method: engine["launches"] for method, engine in engines.items()}
    assert list(launches) == ["none", "mask", "clip", "nearest", "recursive", "trained"]
    assert launches["none"] < launches["mask"] < launches["trained"]
    assert engines["none"]["devices"]["l4"]["ratio"] == 1.0 < engines["trained"]["devices"]["orin-agx"]["ratio"] < 1.3
    page = (tmp_path / "m.html").read_text()
    assert "orin-agx" in page and "estimates" in page and f">{launches['trained']}<" in page
    assert f"launches {launches['trained']}" in done.out


def test_engine_figures_are_told_in_one_order() -> None:
    device = {"graph_ms": 0.12345, "graph_ratio": 1.0204, "stream_ms": 0.2, "stream_ratio": 1.1}
    cost = {"name": "mask", "batch": 2, "launches": 86, "moved_bytes": 14_800_000, "devices": {"l4": device}}
    assert engine_figures(cost) == [("launches", "86"), ("moved", "14.8 MB"), ("l4", "0.123 ms (1.020x)")]
    assert engine_dict(cost)["devices"] == {"l4": {"graph_ms": 0.12345, "ratio": 1.0204}}
    assert engine_figures(None) == []


def test_what_a_declaration_says_beside_its_sites_is_kept(tmp_path: Path) -> None:
    """Registers and where they begin: else a method would be compared with another model."""
    file = tmp_path / "dsr.toml"
    file.write_text(DECLARED)
    model = declared_model(ModelRequest(model="rae-dit", random_weights=0, dsr=file, options=SIZES))
    found = [load(each) for each in treated(model).values()]
    assert {(each.dsr.denoiser.registers, each.dsr.denoiser.start) for each in found} == {(4, 1)}
    assert [each.dsr.denoiser.replacement_sites for each in found] == [0, 1, 1, 1, 1]


def _judged(file: Path) -> dict[str, tuple[Any, tuple[int, int]]]:
    """Of each row of a table: what it declares, and how many registers and sites that are."""
    model = declared_model(ModelRequest(model="rae-dit", random_weights=0, dsr=file, options=SIZES))
    found = {name: load(each).dsr.denoiser for name, each in treated(model).items()}
    return {name: (each, (each.registers, each.replacement_sites)) for name, each in found.items()}


def test_registers_from_files_are_methods_of_their_own(tmp_path: Path) -> None:
    """Inserted ones are left out of what they are compared with."""
    rows = torch.randn(4, SIZES["hidden_size"])
    gate = {"choice_weight": rows.T.contiguous(), "gate_weight": rows[:1].T.clone(), "gate_bias": torch.zeros(1)}
    save_file({"registers": rows, **gate}, tmp_path / "site.safetensors")
    save_file({"registers": rows}, tmp_path / "r.safetensors")
    file = tmp_path / "dsr.toml"
    site = 'choice = "gate"\nregisters = "site.safetensors"\n'
    file.write_text(DECLARED.replace("registers = 4", 'register_file = "r.safetensors"') + site)
    found = _judged(file)
    assert {name: counts for name, (_, counts) in found.items()} == {
        "none": (0, 0),
        "mask": (0, 1),
        "clip": (0, 1),
        "nearest": (0, 1),
        "recursive": (0, 1),
        "registers": (4, 0),
        "trained": (0, 1),
        "both": (4, 1),
    }
    assert found["trained"][0].replace[0].choice == found["both"][0].replace[0].choice == "gate"
    nearest = found["nearest"][0].replace[0]  # of the same file: the model has no registers of its own
    assert (nearest.choice, nearest.registers) == ("nearest", found["trained"][0].replace[0].registers)


def test_sites_that_use_the_inserted_registers_are_judged_with_them(tmp_path: Path) -> None:
    """Without these they have none: such a declaration is a row as it stands, and none of the others."""
    save_file({"registers": torch.randn(4, SIZES["hidden_size"])}, tmp_path / "r.safetensors")
    file = tmp_path / "dsr.toml"
    file.write_text(DECLARED.replace("registers = 4", 'register_file = "r.safetensors"') + 'choice = "nearest"\n')
    found = _judged(file)
    assert {name: counts for name, (_, counts) in found.items()} == {
        "none": (0, 0),
        "mask": (0, 1),
        "clip": (0, 1),
        "registers": (4, 0),
        "both": (4, 1),
    }


@pytest.mark.parametrize("option", ["--html", "-o"])
@pytest.mark.parametrize("written", ["r.safetensors", "in/r.safetensors", "dsr.toml", "link", "k.pem", "stats"])
def test_files_that_an_evaluation_reads_are_never_written(option: str, written: str, cli: Cli, tmp_path: Path) -> None:
    """Those that a declaration names too, though two of them share a name."""
    (tmp_path / "in").mkdir()
    for folder in (tmp_path, tmp_path / "in"):
        save_file({"registers": torch.randn(4, 128)}, folder / "r.safetensors")
    (tmp_path / "link").symlink_to("in/r.safetensors")
    site = '[[denoiser.replace]]\nlayers = [1]\nrule = "median"\nthreshold = 4.0\nregisters = "in/r.safetensors"\n'
    declared = '[denoiser]\nkind = "diffusion"\nstart = 2\nregister_file = "r.safetensors"\n'
    (tmp_path / "dsr.toml").write_text(declared + site)
    for name in ("k.pem", "stats"):
        (tmp_path / name).write_text("read")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    read = ("--dsr", tmp_path / "dsr.toml", "--trust", tmp_path / "k.pem")
    more = ("--option", f"latent_stats={tmp_path / 'stats'}")
    done = cli("evaluate", "digits-outliers", "--methods", *read, *more, option, tmp_path / written)
    assert done.code == 1 and re.search(rf"{written} is [^,]+, which is left as it is\n", done.err), done.err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("digits", "--methods", "--reference", "pytorch"), "--reference does not go with --methods"),
        (("digits", "--methods", "--max", "fid=1"), "--max does not go with --methods"),
        (("dit-s-8", "--methods"), "which figures of dit-s-8 are wanted"),
        (("digits", "--methods", "--junit", "x.xml"), "--junit is of limits"),
        (("no-such-model", "--methods", "--metrics", "is"), "no-such-model"),
        (("digits", "--decoder", "x.dsr"), "--decoder goes with --methods"),
        (("digits", "--roofline", "l4"), "--roofline goes with --methods"),
        (("digits-outliers", "--methods", "--roofline", "rtx4091"), "there is no data of a device 'rtx4091'"),
        (("digits-outliers", "--methods", "--roofline", "l4,"), "a device's name is empty"),
        (("digits", "--methods", "--metrics", "psnr"), "PSNR, dB does not go with --methods"),
        (
            ("dit-s-8", "--methods", "--metrics", "fid", "--random-weights", "0"),
            "dit-s-8 declares no replacement sites",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(cli: Cli, options: tuple[str, ...], message: str) -> None:
    done = cli("evaluate", *options)
    assert done.code == 1 and message in done.err, done.err
