"""`fit` from a checkpoint to a folder that builds."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import dsr_export.fitting.loop as loop_module
from dsr_export.config import ModelRequest
from dsr_export.errors import ExportError
from dsr_export.families import load_subject
from dsr_export.fitting.data import data_digest
from dsr_export.fitting.fit import fit
from dsr_export.fitting.state_file import State
from dsr_export.sources import load_subject as load_model
from dsr_export.storage.cache import StageCache
from dsr_export.subjects.tensors_digest import tensors_digest
from tests.families.tiny_sizes import REQUIRED, SIZES
from tests.fitting.small_fits import BOTH, GATE, base, latents, options


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_folder_is_what_a_build_takes(tmp_path: Path) -> None:
    request = base(tmp_path)
    asked = options(tmp_path, BOTH, data=str(latents(tmp_path)), steps=30, rate=0.05, licence="CC0")
    made = fit(request, asked, StageCache(tmp_path / "cache"))
    out = tmp_path / "made"
    assert sorted(path.name for path in out.iterdir()) == made["files"]
    loaded = load_model("rae-dit", checkpoint=request.checkpoint, dsr=out / "dsr.toml", **REQUIRED)
    spec = loaded.dsr.denoiser
    assert (spec.registers, spec.start, spec.replace[0].choice) == (3, 1, "gate")
    site: Any = loaded.module.get_submodule("replacements.1")
    gate = load_file(out / "site-1.safetensors")
    torch.testing.assert_close(site.gate_bias.data, gate["gate_bias"])
    assert all(value.abs().max() > 0 for value in gate.values())
    record = json.loads((out / "fit.json").read_text())
    assert record["recipe"]["licence"] == "CC0" and len(record["losses"]) == 30
    assert "CC0" in (out / "README.md").read_text() and (out / "index.html").read_text().count("<svg") > 3


def test_the_loss_falls_and_the_base_stays(tmp_path: Path) -> None:
    request = base(tmp_path)
    before = tensors_digest(load_subject("rae-dit", checkpoint=request.checkpoint, **REQUIRED).module)
    asked = options(tmp_path, data=str(latents(tmp_path)), steps=60, batch=12, rate=0.05)
    made = fit(request, asked, StageCache(tmp_path / "cache"))
    record = json.loads((tmp_path / "made" / "fit.json").read_text())
    assert np.mean(record["losses"][-15:]) < np.mean(record["losses"][:15])
    assert record["base_sha256"] == before
    assert made["outliers_by_block"]["before"][1] > 0


@pytest.mark.parametrize("data", [pytest.param("self", marks=pytest.mark.slow), "latents"])
def test_two_runs_and_one_that_was_stopped_thrice_give_the_same_bytes(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = base(tmp_path)
    given = data if data == "self" else str(latents(tmp_path))
    asked = options(tmp_path, BOTH, data=given, norm_weight=0.1)
    monkeypatch.setattr(loop_module, "SAVED_EVERY", 1)
    fit(request, asked, StageCache(tmp_path / "one"))
    wanted = _bytes(asked.out)
    for cache in ("two", "two"):  # the second reads the first's
        fit(request, asked, StageCache(tmp_path / cache))
        assert _bytes(asked.out) == wanted
    save, saves = State.save, list[int]()

    def stopping(self: State, path: Path) -> None:
        save(self, path)
        saves.append(len(self.losses))
        if len(saves) in (1, 3, 4):
            raise KeyboardInterrupt

    monkeypatch.setattr(State, "save", stopping)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            fit(request, asked, StageCache(tmp_path / "three"))
    fit(request, asked, StageCache(tmp_path / "three"))
    assert saves == [1, 2, 3, 4, 5, 6]  # no step was made twice
    assert _bytes(asked.out) == wanted
    assert not list((tmp_path / "three" / "fit-state").iterdir())


def test_a_state_that_is_damaged_is_not_gone_on_with(tmp_path: Path) -> None:
    values = {"a/registers": nn.Parameter(torch.zeros(2, 3))}
    state = State(values)
    values["a/registers"].grad = torch.ones(2, 3)
    state.optimizer.step()
    state.losses = [1.0]
    state.save(tmp_path / "state")
    data = (tmp_path / "state").read_bytes()
    for broken in (b"", data[:-1], data[: len(data) // 2], b"\0" * 40):
        (tmp_path / "state").write_bytes(broken)
        other = State({"a/registers": nn.Parameter(torch.ones(2, 3))})
        other.resume(tmp_path / "state")
        assert other.losses == [] and (other.values["a/registers"] == 1).all()


def test_the_models_own_calls_by_name_are_distilled(tmp_path: Path) -> None:
    request = base(tmp_path)
    subject = load_subject("rae-dit", checkpoint=request.checkpoint, **REQUIRED)
    np.savez(tmp_path / "calls.npz", **subject.example(6, seed=0))  # type: ignore[arg-type]
    fit(request, options(tmp_path, data=str(tmp_path / "calls.npz")), StageCache(tmp_path / "cache"))
    record = json.loads((tmp_path / "made" / "fit.json").read_text())
    assert "distillation" in record["objective"] and 0 < record["losses"][0] < 10


def test_a_declaration_without_outliers_is_said(tmp_path: Path) -> None:
    text = GATE.replace("3.0", "1e6")
    with pytest.raises(ExportError, match="nothing that is trained changes the loss"):
        fit(base(tmp_path), options(tmp_path, text), StageCache(tmp_path / "cache"))
    assert not (tmp_path / "made").exists()


def test_a_loss_that_is_no_number_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = options(tmp_path, data=str(latents(tmp_path, latents=np.full((12, 3, 8, 8), 1e38, np.float32))))
    with pytest.raises(ExportError, match=r"the loss is (nan|inf) in step 0") as caught:
        fit(base(tmp_path), asked, StageCache(tmp_path / "cache"))
    assert "rate" not in str(caught.value.hint)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"latents": np.zeros((0, 3, 8, 8), np.float32), "labels": np.zeros(0, int)}, "no rows"),
        ({"latents": np.full((12, 3, 8, 8), np.nan, np.float32)}, "NaN"),
        ({"latents": np.zeros((12, 4, 8, 8), np.float32)}, r"found float32 \[12, 4, 8, 8\]"),
        ({"latents": np.zeros((12, 3, 8, 8), np.int32)}, "expected 'latents' of floats"),
        ({"latents": np.full((12, 3, 8, 8), 1e300)}, "infinities, as float32"),
        ({"labels": None}, "has no 'labels'"),
        ({"labels": np.arange(11) % 5}, "'labels' are not 12 whole numbers from 0 to 4"),
        ({"labels": np.arange(12)}, "'labels' are not 12 whole numbers from 0 to 4"),
        ({"labels": np.zeros(12, np.float32)}, "'labels' are not 12 whole numbers from 0 to 4"),
        ({"latents": None}, "x"),
    ],
)
def test_data_that_does_not_fit_is_refused_before_the_first_step(
    arrays: dict[str, Any], message: str, tmp_path: Path
) -> None:
    asked = options(tmp_path, data=str(latents(tmp_path, **arrays)))
    with pytest.raises(ExportError, match=message):
        fit(base(tmp_path), asked, StageCache(tmp_path / "cache"))
    assert not (tmp_path / "made").exists() and not (tmp_path / "cache" / "fit").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": "no-such.npz"}, "no data at no-such.npz"),
        ({"dsr": Path("no-such.toml")}, "no such file"),
        ({"out": Path("/proc/made")}, "cannot write|can't write|no permission"),
    ],
)
def test_paths_that_do_not_exist_are_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    asked = dataclasses.replace(options(tmp_path), **change)
    with pytest.raises(ExportError, match=message):
        fit(base(tmp_path), asked, StageCache(tmp_path / "cache"))


def test_pictures_beside_the_data_hide_none_of_it(tmp_path: Path) -> None:
    """Another file of latents is another training, whatever else lies in the folder."""
    found = []
    for scale in (1, 3):
        (tmp_path / f"{scale}").mkdir()
        rng = np.random.default_rng(0)
        latents(tmp_path / f"{scale}", latents=(scale * rng.standard_normal((12, 3, 8, 8))).astype(np.float32))
        (tmp_path / f"{scale}" / "a.png").write_bytes(b"one picture")
        found.append(data_digest(str(tmp_path / f"{scale}")))
    assert found[0] != found[1]


def test_labels_that_the_model_lacks_are_refused_among_inputs_by_name(tmp_path: Path) -> None:
    request = base(tmp_path)
    subject = load_subject("rae-dit", checkpoint=request.checkpoint, **REQUIRED)
    np.savez(tmp_path / "calls.npz", **{**subject.example(6, seed=0), "y": np.full(6, 99)})  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="label 99"):
        fit(request, options(tmp_path, data=str(tmp_path / "calls.npz")), StageCache(tmp_path / "cache"))


def test_a_site_that_nothing_reached_is_named(tmp_path: Path) -> None:
    text = BOTH.replace("3.0", "1e6")
    made = fit(base(tmp_path), options(tmp_path, text, data=str(latents(tmp_path))), StageCache(tmp_path / "cache"))
    assert "site-1.safetensors: not trained" in made["headline"]


def test_a_norm_term_needs_sites(tmp_path: Path) -> None:
    asked = options(tmp_path, BOTH.partition("[[")[0], data=str(latents(tmp_path)), norm_weight=1.0)
    with pytest.raises(ExportError, match="there are none"):
        fit(base(tmp_path), asked, StageCache(tmp_path / "cache"))


def test_registers_of_a_checkpoints_own_enter_where_the_file_says(tmp_path: Path) -> None:
    """No checkpoint holds where, so that nothing else can say it."""
    own = load_subject("rae-dit", random_weights=0, registers=4, **SIZES).module.state_dict()
    save_file({name: value.clone() for name, value in own.items()}, tmp_path / "own.safetensors")
    request = ModelRequest(model="rae-dit", checkpoint=tmp_path / "own.safetensors", options=REQUIRED)
    asked = options(tmp_path, f"[denoiser]\nstart = 1\n{GATE.replace('3.0', '1.01')}", steps=2)
    fit(request, asked, StageCache(tmp_path / "cache"))
    made = load_model("rae-dit", checkpoint=request.checkpoint, dsr=asked.out / "dsr.toml", **REQUIRED).dsr.denoiser
    assert (made.registers, made.start, len(made.replace)) == (4, 1, 1)


def test_errors_name_the_users_file(tmp_path: Path) -> None:
    text = '[encoder]\nkind = "appended"\nregisters = 2\n'
    with pytest.raises(ExportError, match=r"rae-dit is no encoder") as caught:
        fit(base(tmp_path), options(tmp_path, text), StageCache(tmp_path / "cache"))
    assert str(tmp_path / "dsr.toml") in str(caught.value)


@pytest.mark.parametrize(("place", "force"), [("data.npz", True), ("base.safetensors", True), ("dsr.toml", False)])
def test_what_is_read_is_never_replaced(place: str, force: bool, tmp_path: Path) -> None:
    request, asked = base(tmp_path), options(tmp_path, data=str(latents(tmp_path)), force=force)
    fit(request, asked, StageCache(tmp_path / "cache"))
    inside = asked.out / place
    (tmp_path / place).replace(inside)
    moved = {"data.npz": {"data": str(inside)}, "dsr.toml": {"dsr": inside}}.get(place, {})
    if place == "base.safetensors":
        request = dataclasses.replace(request, checkpoint=inside)
    with pytest.raises(ExportError, match="which is read"):
        fit(request, dataclasses.replace(asked, **moved), StageCache(tmp_path / "cache"))
    assert inside.is_file()


def test_a_checkpoint_beside_the_results_is_kept(tmp_path: Path) -> None:
    request, asked = base(tmp_path), options(tmp_path, data=str(latents(tmp_path)))
    fit(request, asked, StageCache(tmp_path / "cache"))
    (asked.out / "mine.safetensors").write_bytes(b"mine")
    with pytest.raises(ExportError, match="holds other files too"):
        fit(request, asked, StageCache(tmp_path / "cache"))


def test_a_layer_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="layer 7"):
        fit(base(tmp_path), options(tmp_path, GATE.replace("[1]", "[7]")), StageCache(tmp_path / "cache"))


def test_two_layers_of_a_group_share_their_registers(tmp_path: Path) -> None:
    asked = options(tmp_path, GATE.replace("[1]", "[0, 1]"), data=str(latents(tmp_path)))
    request = base(tmp_path)
    fit(request, asked, StageCache(tmp_path / "cache"))
    loaded = load_model("rae-dit", checkpoint=request.checkpoint, dsr=asked.out / "dsr.toml", **REQUIRED)
    one, other = (loaded.module.get_submodule(f"replacements.{i}") for i in (0, 1))
    torch.testing.assert_close(one.registers, other.registers)


def test_an_unknown_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no-such-model"):
        fit(ModelRequest(model="no-such-model"), options(tmp_path), StageCache(tmp_path / "cache"))
