"""One model under each treatment of its outliers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dsr_export.evaluation.methods import METHODS, method_groups
from dsr_export.spec import ReplaceSpec
from tests.conftest import Cli

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
    groups = method_groups(SITES, method)
    assert [(group.choice, group.rounds) for group in groups] == wanted
    assert all((group.layers, group.rule, group.threshold) == ((3, 5), "median", 4.0) for group in groups)


def test_recursion_takes_at_least_two_rounds() -> None:
    once = (ReplaceSpec(layers=(1,), rule="absolute", threshold=1.0),)
    assert method_groups(once, "recursive")[0].rounds == 2


def test_the_table_of_methods_comes_from_one_command(cli: Cli, tmp_path: Path) -> None:
    files = ("--html", tmp_path / "made.html", "-o", tmp_path / "made.json")
    few = ("--count", "72", "--steps", "2", "--guidance", "1")
    done = cli("evaluate", "digits-outliers", "--methods", *few, *files)
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "made.json").read_text())["methods"]
    assert list(METHODS) == [line.split()[0] for line in done.out.splitlines()[1:]]
    assert found["none"]["fid"]["difference"]["value"] == 0
    assert found["mask"]["fid"]["value"] != found["none"]["fid"]["value"]
    assert found["nearest"]["fid"]["value"] != found["mask"]["fid"]["value"]
    assert (tmp_path / "made.html").read_text().count("<img") == len(METHODS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("digits", "--methods", "--reference", "pytorch"), "--reference does not go with --methods"),
        (("digits", "--methods", "--max", "fid=1"), "--max does not go with --methods"),
        (("dit-s-8", "--methods"), "which figures of dit-s-8 are wanted"),
        (("digits", "--methods", "--junit", "x.xml"), "--junit is of limits"),
        (("no-such-model", "--methods", "--metrics", "is"), "no-such-model"),
        (("digits", "--decoder", "x.dsr"), "--decoder goes with --methods"),
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
