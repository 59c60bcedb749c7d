"""What an INT8 build may be asked to do, and how it is told no before anything is computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dsr_export.config import ExportConfig
from dsr_export.declarations.int8_options import MAX_IMAGES, Int8Options
from dsr_export.errors import ExportError
from tests.conftest import Cli


def test_an_unknown_method_is_named_with_the_nearest_and_all_known() -> None:
    with pytest.raises(ExportError, match="no calibration method 'entropi'") as told:
        Int8Options(method="entropi")
    assert str(told.value.hint).startswith("did you mean 'entropy'?")
    assert "outlier-aware, minmax, percentile, entropy, mse" in str(told.value.hint)


def test_the_command_line_suggests_a_method_too(cli: Cli, tmp_path: Path) -> None:
    done = cli("build", "--precision", "int8", "--int8-method", "minmx", "--out", tmp_path / "x.dsr")
    assert done.code == 2
    assert "minmax" in done.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("images", [0, -1, MAX_IMAGES + 1])
def test_a_number_of_images_that_can_not_be_is_refused(images: int) -> None:
    with pytest.raises(ExportError, match=f"^{images} calibration images"):
        Int8Options(images=images)


@pytest.mark.parametrize("data", ["random:", "random:x", "random:-1", "random:1.5"])
def test_random_data_needs_a_seed(data: str) -> None:
    with pytest.raises(ExportError, match=f"--calibration {data} has no seed") as told:
        Int8Options(data=data).stage_key()
    assert told.value.hint == "write random:0"


def test_a_seed_is_read() -> None:
    assert Int8Options(data="random:17").seed == 17
    assert Int8Options(data="trajectory").seed is None
    assert Int8Options(data="randomised.npz").seed is None


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("changed", [{"method": "minmax"}, {"data": "random:0"}, {"images": 5}, {"budget_db": 25.0}])
def test_other_precisions_take_no_calibration_options(precision: str, changed: dict[str, object]) -> None:
    with pytest.raises(ExportError, match=f"do not apply to {precision}") as told:
        ExportConfig(precision=precision, int8=Int8Options(**changed))  # type: ignore[arg-type]
    assert "--precision int8" in str(told.value.hint)
    assert ExportConfig(precision="int8", int8=Int8Options(**changed)).int8 != Int8Options()  # type: ignore[arg-type]


def test_the_command_line_refuses_them_before_it_traces(cli: Cli, tmp_path: Path) -> None:
    done = cli("build", "--precision", "fp16", "--calibration", "random:0", "--out", tmp_path / "x.dsr")
    assert done.code == 1
    assert "hint: give --precision int8" in done.err
    assert not list(tmp_path.iterdir())


def test_data_that_is_not_there_is_refused_before_the_model_is_traced(cli: Cli, tmp_path: Path) -> None:
    done = cli("build", "--precision", "int8", "--calibration", tmp_path / "no.npz", "--out", tmp_path / "x.dsr")
    assert done.code == 1
    assert f"no such calibration data: {tmp_path / 'no.npz'}" in done.err
    assert "trace" not in done.err
    assert not list(tmp_path.glob("x.dsr*"))


def test_the_cache_key_follows_the_content_of_files_not_their_names(tmp_path: Path) -> None:
    for name, value in (("a", 0.0), ("b", 0.0), ("c", 1.0)):
        np.savez(tmp_path / f"{name}.npz", x=np.full((2, 3), value))
    a, b, c = (Int8Options(data=str(tmp_path / f"{name}.npz")).stage_key() for name in "abc")
    assert a == b
    assert a != c


def test_every_option_that_changes_the_scales_is_in_the_key() -> None:
    keys = [
        Int8Options().stage_key(),
        Int8Options(method="mse").stage_key(),
        Int8Options(data="random:0").stage_key(),
        Int8Options(data="random:1").stage_key(),
        Int8Options(images=5).stage_key(),
        Int8Options(steps=7).stage_key(),
    ]
    assert all(keys[i] != keys[j] for i in range(len(keys)) for j in range(i))


def test_a_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"none\.json can't be read: No such file"):
        Int8Options(tables=(tmp_path / "none.json",)).stage_key()
