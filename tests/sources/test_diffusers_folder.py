"""`--model-dir`: which folders are taken, what identifies them, and what is said of the others."""

from __future__ import annotations

import inspect
import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dsr_export.bundle.reader import Bundle
from dsr_export.config import ModelRequest
from dsr_export.errors import ExportError
from dsr_export.sources import find_source, load_subject
from dsr_export.sources.diffusers_folder import accepts
from tests.conftest import Cli
from tests.families.diffusers.folders import DIT, OPTIONS, PIXART, saved

SD3 = "SD3Transformer2DModel"
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(SD3, tmp_path_factory.mktemp("folders") / "tiny-sd3")


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy to alter."""
    return shutil.copytree(original, tmp_path / "tiny-sd3")


def _edit(folder: Path, **entries: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | entries))


def _key(folder: Path, **asked: Any) -> str:
    return json.dumps(find_source(ModelRequest(model_dir=folder, **asked)).key(), sort_keys=True)


def test_requests_without_a_folder_are_left_to_others(folder: Path) -> None:
    assert accepts(ModelRequest(model_dir=folder)) and not accepts(ModelRequest())


def test_a_transformer_folder_is_loaded_and_named_after_it(folder: Path) -> None:
    subject = load_subject(model_dir=folder, **OPTIONS[SD3])
    assert (subject.name, subject.family) == ("tiny-sd3", "diffusers")
    assert [spec.name for spec in subject.inputs] == [
        "hidden_states", "encoder_hidden_states", "pooled_projections", "timestep",
    ]  # fmt: skip
    assert len(subject.provenance["checkpoint_sha256"]) == 64


def test_so_is_the_transformer_of_a_pipeline(folder: Path, tmp_path: Path) -> None:
    pipeline = tmp_path / "my-pipeline"
    shutil.copytree(folder, pipeline / "transformer")
    (pipeline / "model_index.json").write_text('{"_class_name": "StableDiffusion3Pipeline"}')
    inside, outside = load_subject(model_dir=pipeline), load_subject(model_dir=folder)
    assert inside.name == "my-pipeline"
    assert inside.provenance == outside.provenance


def test_the_network_is_never_asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    load_subject(model_dir=folder)


class TestKey:
    def test_it_needs_no_torch_and_no_diffusers(self, folder: Path) -> None:
        code = (
            "import sys; from pathlib import Path; from dsr_export.config import ModelRequest;"
            "from dsr_export.sources import find_source;"
            "find_source(ModelRequest(model_dir=Path(sys.argv[1]))).key();"
            "print({'torch', 'diffusers'} & set(sys.modules))"
        )
        done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "set()"

    def test_content_counts_and_the_place_does_not(self, folder: Path, original: Path) -> None:
        assert _key(folder) == _key(original)
        _edit(folder, sample_size=4)
        assert _key(folder) != _key(original)

    def test_everything_that_is_asked_counts(self, folder: Path, tmp_path: Path) -> None:
        dsr, rows = tmp_path / "dsr.toml", [tmp_path / f"{name}.safetensors" for name in "ab"]
        dsr.write_text('[[denoiser.replace]]\nlayers = [0]\nrule = "median"\nthreshold = 2.0\nchoice = "mask"\n')
        for i, file in enumerate(rows):
            save_file({"registers": torch.full((1, 32), float(i))}, file)
        other = tmp_path / "other.safetensors"
        shutil.copy(folder / WEIGHTS, other)
        keys = [
            _key(folder),
            _key(folder, random_weights=0),
            _key(folder, random_weights=1),
            _key(folder, random_weights=1, registers=2),
            _key(folder, checkpoint=other),
            _key(folder, dsr=dsr),
            _key(folder, options={"text_tokens": 7}),
            _key(folder, options={"register_file": str(rows[0])}),
            _key(folder, options={"register_file": str(rows[1])}),
        ]
        state = load_file(folder / WEIGHTS)
        save_file({**state, "proj_out.bias": state["proj_out.bias"] + 1}, folder / WEIGHTS)
        keys.append(_key(folder))
        assert len(set(keys)) == len(keys)
        assert _key(folder, random_weights=1) == keys[2]  # its own weights do not count where they are not used


def test_a_declared_replacement_is_applied(folder: Path, tmp_path: Path) -> None:
    dsr = tmp_path / "dsr.toml"
    dsr.write_text('[[denoiser.replace]]\nlayers = [0, 1]\nrule = "median"\nthreshold = 2.0\nchoice = "clip"\n')
    assert load_subject(model_dir=folder, dsr=dsr).dsr.sites()["ReplaceOutliers"] == 2
    dsr.write_text('[encoder]\nkind = "trained"\nregisters = 4\n')
    with pytest.raises(ExportError, match="is no encoder"):
        load_subject(model_dir=folder, dsr=dsr)


def test_declared_registers_are_inserted(folder: Path, tmp_path: Path) -> None:
    dsr, rows = tmp_path / "dsr.toml", torch.randn(3, 32)
    dsr.write_text('[denoiser]\nkind = "diffusion"\nstart = 1\nregister_file = "r.safetensors"\n')
    with pytest.raises(ExportError, match="no such file"):
        load_subject(model_dir=folder, dsr=dsr)
    save_file({"registers": rows}, tmp_path / "r.safetensors")
    subject, key = load_subject(model_dir=folder, dsr=dsr), _key(folder, dsr=dsr)
    assert (subject.dsr.denoiser.registers, subject.dsr.denoiser.start) == (3, 1)
    assert torch.equal(subject.module.registers, rows)  # type: ignore[arg-type]
    save_file({"registers": rows + 1}, tmp_path / "r.safetensors")
    assert _key(folder, dsr=dsr) != key
    with pytest.raises(ExportError, match="registers have 32 channels, and the model has 384"):
        load_subject("rae-dit-s", random_weights=0, dsr=dsr)


@pytest.mark.parametrize("options", [{}, {"max_shard_size": "60KB"}, {"safe_serialization": False}], ids=str)
def test_a_folder_may_hold_one_variant_only(options: dict[str, Any], tmp_path: Path) -> None:
    plain = load_subject(model_dir=saved(SD3, tmp_path / "plain")).module.state_dict()
    folder = saved(SD3, tmp_path / "a", variant="fp16", **options)
    assert not (folder / WEIGHTS).exists()
    subject = load_subject(model_dir=folder)
    assert all(torch.equal(value, plain[name]) for name, value in subject.module.state_dict().items())
    assert subject.provenance["weights"]["file"].startswith("diffusion_pytorch_model.fp16")
    assert _key(folder) != _key(tmp_path / "plain") or not options


def test_an_index_may_be_called_as_older_releases_did(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    shards, weight_map = ({}, {}), {}
    for i, (name, value) in enumerate(state.items()):
        shards[i % 2][name] = value
        weight_map[name] = f"diffusion_pytorch_model-{i % 2 + 1:05}-of-00002.fp16.safetensors"
    for i, shard in enumerate(shards):
        save_file(shard, folder / f"diffusion_pytorch_model-{i + 1:05}-of-00002.fp16.safetensors")
    index = json.dumps({"weight_map": weight_map})
    (folder / "diffusion_pytorch_model.fp16.safetensors.index.json").write_text(index)
    assert load_subject(model_dir=folder).provenance["weights"]["file"].endswith("and 1 more")


@pytest.mark.parametrize(("class_name", "options"), [(DIT, {}), (PIXART, OPTIONS[PIXART])])
def test_the_class_of_before_0_29_says_nothing_by_its_defaults(
    class_name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    diffusers = pytest.importorskip("diffusers")
    folder = saved(class_name, tmp_path / "legacy")
    parameters = inspect.signature(diffusers.Transformer2DModel.__init__).parameters
    defaults = {name: each.default for name, each in parameters.items() if name != "self"}
    config = json.loads((folder / "config.json").read_text())
    _edit(folder, **{**defaults, **config, "_class_name": "Transformer2DModel"})
    subject = load_subject(model_dir=folder, **options)
    assert subject.config["_class_name"] == class_name
    _edit(folder, double_self_attention=True)
    with pytest.raises(ExportError, match="has no argument 'double_self_attention'"):
        load_subject(model_dir=folder, **options)


def test_a_folder_of_averaged_weights_says_how_they_were_averaged(folder: Path) -> None:
    averaging = {"decay": 0.99, "min_decay": 0.0, "optimization_step": 3, "update_after_step": 0, "inv_gamma": 1.0}
    _edit(folder, **averaging, use_ema_warmup=False, power=2 / 3)
    assert load_subject(model_dir=folder).name == "tiny-sd3"


def test_which_of_a_checkpoint_s_weights_is_asked_for(folder: Path, tmp_path: Path) -> None:
    state, file = load_file(folder / WEIGHTS), tmp_path / "trainer.pt"
    other = {name: value + 1 for name, value in state.items()}
    torch.save({"model": state, "model_ema": other}, file)
    for entry, bias in ((None, other), ("ema", other), ("model", state)):
        subject = load_subject(model_dir=folder, checkpoint=file, weights=entry)
        assert torch.equal(subject.module.state_dict()["transformer.proj_out.bias"], bias["proj_out.bias"])
    assert len({_key(folder, checkpoint=file, weights=entry) for entry in (None, "ema", "model")}) == 3
    with pytest.raises(ExportError, match="--weights chooses among stored weights"):
        load_subject(model_dir=folder, random_weights=0, weights="ema")


class TestBadInput:
    def test_no_such_folder(self, folder: Path) -> None:
        with pytest.raises(ExportError, match="no such folder") as caught:
            load_subject(model_dir=folder.with_name("tiny-sd2"))
        assert caught.value.hint == "did you mean 'tiny-sd3'?"

    def test_no_diffusers_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ExportError, match="is no diffusers folder"):
            load_subject(model_dir=tmp_path)

    def test_a_pipeline_around_a_unet(self, tmp_path: Path) -> None:
        (tmp_path / "unet").mkdir()
        with pytest.raises(ExportError, match="is no diffusers folder") as caught:
            load_subject(model_dir=tmp_path)
        assert "UNet" in str(caught.value.hint)

    @pytest.mark.parametrize(
        ("name", "hint"),
        [
            ("SD3Transformer2dModel", "did you mean 'SD3Transformer2DModel'?"),
            ("UNet2DConditionModel", "give it as module:callable"),
            ("Transformer2DModel", "give it as module:callable"),
            ("FluxTransformer3DModel", "did you mean 'FluxTransformer2DModel'?"),
            ("AnotherModel", "give it as module:callable"),
        ],
    )
    def test_an_unknown_class(self, name: str, hint: str, folder: Path) -> None:
        _edit(folder, _class_name=name)
        with pytest.raises(ExportError, match=name) as caught:
            load_subject(model_dir=folder)
        assert hint in str(caught.value.hint)

    def test_another_class_than_the_config_was_written_for(self, folder: Path) -> None:
        _edit(folder, _class_name="QwenImageTransformer2DModel")
        with pytest.raises(ExportError, match="QwenImageTransformer2DModel has no argument"):
            load_subject(model_dir=folder)

    def test_a_transformers_model(self, folder: Path) -> None:
        (folder / "config.json").write_text('{"model_type": "siglip"}')
        with pytest.raises(ExportError, match="names no _class_name") as caught:
            load_subject(model_dir=folder)
        assert "transformers" in str(caught.value.hint)

    @pytest.mark.parametrize("text", ["{", "[1]", "\xff"])
    def test_a_broken_config(self, text: str, folder: Path) -> None:
        (folder / "config.json").write_text(text, encoding="latin-1")
        with pytest.raises(ExportError, match=r"config.json (is no readable JSON|holds no JSON object)"):
            load_subject(model_dir=folder)

    def test_missing_weights_are_never_made_up(self, folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        with pytest.raises(ExportError, match="holds no weights") as caught:
            load_subject(model_dir=folder)
        assert "--random-weights" in str(caught.value.hint)
        assert load_subject(model_dir=folder, random_weights=0).provenance["random_seed"] == 0

    def test_several_variants_are_not_guessed_among(self, folder: Path) -> None:
        for variant in ("ema", "fp16"):
            shutil.copy(folder / WEIGHTS, folder / f"diffusion_pytorch_model.{variant}.safetensors")
        load_subject(model_dir=folder)  # the plain file is the one
        (folder / WEIGHTS).unlink()
        with pytest.raises(ExportError, match="several variants of its weights: ema, fp16") as caught:
            load_subject(model_dir=folder)
        assert "--checkpoint" in str(caught.value.hint)
        load_subject(model_dir=folder, checkpoint=folder / "diffusion_pytorch_model.ema.safetensors")

    def test_registers_without_values_name_an_option_that_exists(self, folder: Path, cli: Cli) -> None:
        done = cli("build", "--model-dir", folder, "--registers", 4, "--target", "onnxruntime")
        assert done.code == 1 and "has no registers of its own" in done.err
        assert "--dsr FILE" in done.err and "[denoiser]" in done.err

    @pytest.mark.parametrize("shard", ["gone.safetensors", "../outside.safetensors"])
    def test_shards_must_lie_beside_their_index(self, shard: str, folder: Path) -> None:
        save_file({"a": torch.ones(1)}, folder.parent / "outside.safetensors")
        (folder / WEIGHTS).unlink()
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
        with pytest.raises(ExportError, match="does not lie beside it"):
            load_subject(model_dir=folder)

    def test_an_index_of_nothing(self, folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        (folder / f"{WEIGHTS}.index.json").write_text("{}")
        with pytest.raises(ExportError, match="lists no weight files"):
            load_subject(model_dir=folder)

    @pytest.mark.parametrize(
        ("asked", "message"),
        [
            ({"model": "rae-dit-s"}, "both the model 'rae-dit-s' and --model-dir"),
            ({"config_file": Path("a.yaml")}, "both --model-dir and --config"),
            ({"random_weights": -1}, "is no seed"),
            ({"random_weights": 0, "checkpoint": Path("a.pt")}, "exclude each other"),
        ],
    )
    def test_what_contradicts_a_folder(self, asked: dict[str, Any], message: str, folder: Path) -> None:
        with pytest.raises(ExportError, match=message):
            load_subject(model_dir=folder, **asked)


@pytest.mark.slow
def test_the_command_builds_a_folder(folder: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "out.dsr"
    build = ["build", "--model-dir", folder, "--precision", "fp16", "--target", "onnxruntime", "--batch", "1,1,2"]
    done = cli(*build, "--out", out, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["passed"]
    assert Bundle.open(out).manifest.model["family"] == "diffusers"
    again = cli(*build, "--out", out)
    assert again.code == 0 and "up to date" in again.err


def test_the_command_names_its_folder_s_problem(tmp_path: Path, cli: Cli) -> None:
    done = cli("build", "--model-dir", tmp_path, "--target", "onnxruntime", "--out", tmp_path / "out.dsr")
    assert done.code == 1 and "is no diffusers folder" in done.err
