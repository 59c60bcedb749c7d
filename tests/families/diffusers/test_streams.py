"""Replacement in either stream of a two-stream transformer, against hooks that write in place in diffusers' own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dsr_export.errors import ExportError
from dsr_export.families.diffusers.files import open_folder
from dsr_export.spec import ReplaceSpec
from tests.families.diffusers.folders import CONFIGS, FLUX, OPTIONS, SD3, from_folder, random_subject
from tests.families.diffusers.in_place import MADE, REGISTERS, Made, Place, check_sites

IMAGE = ReplaceSpec(layers=(0, 1), rule="median", threshold=1.1, rounds=2, choice="mask")
TEXT = ReplaceSpec(layers=(0,), rule="sigma", threshold=0.5, stream="text")  # nearest: registers of a file
PLACES = {"text": 0, "image": 1}
"""Where blocks of SD3 and FLUX return each; behind the join FLUX's take them apart again."""


@pytest.mark.parametrize("made_by", MADE)
def test_each_stream_is_decided_by_itself_in_sd3(made_by: Made, tmp_path: Path) -> None:
    names = ["transformer_blocks.0", "transformer_blocks.1"]
    _check(SD3, CONFIGS[SD3], names, (IMAGE, TEXT), made_by, tmp_path)


@pytest.mark.parametrize("made_by", MADE)
def test_each_stream_is_decided_by_itself_in_flux_behind_the_join_as_well(made_by: Made, tmp_path: Path) -> None:
    config = {**CONFIGS[FLUX], "num_layers": 1, "num_single_layers": 2}
    names = ["transformer_blocks.0", "single_transformer_blocks.0", "single_transformer_blocks.1"]
    image = dataclasses.replace(IMAGE, layers=(0, 1, 2), rule="sigma", threshold=1.0)
    text = dataclasses.replace(TEXT, layers=(0, 1), rule="median", threshold=1.05)
    _check(FLUX, config, names, (image, text), made_by, tmp_path)


def _check(
    class_name: str,
    config: Mapping[str, Any],
    names: list[str],
    groups: tuple[ReplaceSpec, ReplaceSpec],
    made_by: Made,
    folder: Path,
) -> None:
    diffusers = pytest.importorskip("diffusers", reason="the models extra is not installed")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(diffusers, class_name)(**config).eval()
    model.save_pretrained(folder / "model")
    save_file({"registers": torch.from_numpy(REGISTERS)}, folder / "r.safetensors")
    groups = groups[0], dataclasses.replace(groups[1], registers=str(folder / "r.safetensors"))
    subject = from_folder(open_folder(folder / "model"), options=OPTIONS[class_name], replace=groups)
    sites = [(each, i, Place(names[i], PLACES[each.stream])) for each in groups for i in each.layers]

    def call(inputs: Mapping[str, Tensor]) -> Tensor:
        made: Tensor = model(**inputs, **(_ids() if class_name == FLUX else {}), return_dict=False)[0]
        return made

    check_sites(model, call, subject, sites, made_by, folder)


def _ids() -> dict[str, Tensor]:
    rows, columns = (axis.flatten() for axis in torch.meshgrid(torch.arange(4), torch.arange(3), indexing="ij"))
    return {"img_ids": torch.stack([torch.zeros(12), rows, columns], dim=1), "txt_ids": torch.zeros(5, 3)}


@pytest.mark.parametrize(
    ("name", "group", "message"),
    [
        ("flux", {"layers": (2,)}, "behind the last block nothing reads them"),
        ("flux", {"layers": (3,)}, "blocks 0 to 2"),
        ("sd3", {"choice": "nearest", "registers": "diffusion"}, "no registers of its own for text"),
        ("sd3", {"stream": "sound"}, "unknown stream 'sound'"),
        ("pixart", {}, "no prompt's tokens"),
    ],
)
def test_groups_that_do_not_fit_are_refused(name: str, group: dict[str, Any], message: str) -> None:
    clip = dataclasses.replace(TEXT, choice="clip")
    with pytest.raises(ExportError, match=message):
        random_subject(name, registers=3, replace=[dataclasses.replace(clip, **group)])


def test_registers_are_rows_of_the_image_alone() -> None:
    groups = [dataclasses.replace(IMAGE, layers=(1,)), dataclasses.replace(TEXT, layers=(1,), choice="clip")]
    module: Any = random_subject("flux", registers=3, replace=groups, register_start=1).module
    assert {site: each.exclude for site, each in module.replacements.items()} == {"1": [0, 1, 2], "1_text": []}
