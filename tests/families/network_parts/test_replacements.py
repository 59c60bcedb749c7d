"""Replacement groups of a `DsrSpec`, applied to a model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from dsr_export.errors import ExportError
from dsr_export.families import load_subject
from dsr_export.families.rae_dit.network import RaeDit
from dsr_export.registers import RecursiveReplacement
from dsr_export.spec import ReplaceSpec
from dsr_export.subject import Subject
from tests.families.tiny_sizes import SIZES

GROUP = ReplaceSpec(layers=(0, 2), rule="median", threshold=1.5, rounds=2)


def _sites(subject: Subject) -> dict[str, RecursiveReplacement]:
    assert isinstance(subject.module, RaeDit)
    found = dict(subject.module.replacements.items())
    return {layer: site for layer, site in found.items() if isinstance(site, RecursiveReplacement)}


def test_each_layer_has_its_own_instance_and_excludes_registers_once_they_are_there() -> None:
    subject = load_subject("rae-dit", random_weights=0, registers=4, replace=[GROUP], **SIZES)
    sites = _sites(subject)
    assert {layer: site.exclude for layer, site in sites.items()} == {"0": [], "2": [0, 1, 2, 3]}
    assert sites["0"] is not sites["2"] and subject.dsr.sites()["ReplaceOutliers"] == 2


def test_registers_and_gate_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "r.safetensors"
    shapes = {"registers": (2, 32), "choice_weight": (32, 2), "gate_weight": (32, 1), "gate_bias": (1,)}
    tensors = {name: torch.randn(shape) for name, shape in shapes.items()}
    save_file(tensors, path)
    group = dataclasses.replace(GROUP, registers=str(path), choice="gate")
    site = _sites(load_subject("rae-dit", random_weights=0, replace=[group], **SIZES))["2"]
    for name, tensor in tensors.items():
        assert torch.equal(getattr(site, name), tensor)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": (3,)}, "blocks 0 to 2"),
        ({"layers": (1, 1)}, "listed twice"),
        ({"rule": "mean"}, "unknown rule"),
        ({"choice": "best"}, "unknown choice"),
        ({"threshold": 0.0}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
        ({"rounds": 0}, "rounds"),
        ({"choice": "gate"}, "needs trained weights"),
        ({"registers": "missing.safetensors"}, "no such checkpoint"),
        ({"registers": "x.safetensors", "choice": "mask"}, "reads no registers"),
        ({"stream": "text", "choice": "clip"}, "no prompt's tokens"),
        ({"stream": "sound"}, "unknown stream 'sound'"),
    ],
)
def test_groups_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        load_subject("rae-dit", random_weights=0, registers=4, replace=[dataclasses.replace(GROUP, **change)], **SIZES)


def test_nearest_needs_registers() -> None:
    with pytest.raises(ExportError, match="no registers of its own"):
        load_subject("rae-dit", random_weights=0, registers=0, replace=[GROUP], **SIZES)


@pytest.mark.parametrize(("name", "shape"), [("registers", (2, 31)), ("rows", (2, 32)), ("registers", (32,))])
def test_register_files_are_checked(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    save_file({name: torch.ones(shape)}, tmp_path / "r.safetensors")
    group = dataclasses.replace(GROUP, registers=str(tmp_path / "r.safetensors"))
    with pytest.raises(ExportError, match=r"shape \[R, 32\]"):
        load_subject("rae-dit", random_weights=0, replace=[group], **SIZES)
