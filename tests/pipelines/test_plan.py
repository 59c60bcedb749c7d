"""What a build makes of a pipeline's folder, and each fault told before anything is loaded."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from dsr_export.config import ExportConfig
from dsr_export.errors import ExportError
from dsr_export.families.text_encoders.reads import Reads
from dsr_export.pipelines.parts import TextPart, VaePart
from dsr_export.pipelines.plan import PipelinePlan, plan_pipeline
from tests.conftest import Cli
from tests.pipelines.folders import STEM, changed, pixart_folder

OPTIONS = {"text_tokens": 12}


def planned(folder: Path, *chosen: str) -> PipelinePlan:
    return plan_pipeline(folder, chosen or ("all",), OPTIONS, random=False, other_transformer=False)


def test_all_parts_are_planned_at_the_transformers_sizes(tmp_path: Path) -> None:
    plan = planned(pixart_folder(tmp_path / "p"))
    assert plan.parts == {
        "text_encoder": TextPart(
            role="text_encoder", tokenizer="tokenizer", reads=Reads(tokens=12, hidden="last", masked=True)
        ),
        "vae": VaePart(channels=4, height=8, width=8, scale=2, scaling_factor=0.13, shift_factor=0.0),
    }
    assert set(plan.files) == {
        "pipeline/scheduler_config.json",
        "pipeline/tokenizer/tokenizer.json",
        "pipeline/tokenizer/tokenizer_config.json",
    }
    assert plan.record.text["text_encoder"].tokens == 12 and plan.record.vae is not None


def test_parts_are_chosen_by_name(tmp_path: Path) -> None:
    plan = planned(pixart_folder(tmp_path / "p"), "vae", "transformer")
    assert list(plan.parts) == ["vae"] and plan.record.text == {}
    assert list(plan.files) == ["pipeline/scheduler_config.json"]


def test_the_encoder_of_latents_is_built_where_it_is_asked_for(tmp_path: Path) -> None:
    plan = planned(pixart_folder(tmp_path / "p"), "all", "vae_encoder")
    parts = {role: part for role, part in plan.parts.items() if isinstance(part, VaePart)}
    assert {role: part.encodes for role, part in parts.items()} == {"vae": False, "vae_encoder": True}


def test_another_precision_or_tokenizer_is_another_plan(tmp_path: Path) -> None:
    folder = pixart_folder(tmp_path / "p")
    before = planned(folder).key()
    changed(folder / "scheduler" / "scheduler_config.json", shift=4.0)
    assert planned(folder).key() != before


def _removed(*parts: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder.joinpath(*parts)
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def _classes(**entries: object) -> Callable[[Path], None]:
    return lambda folder: changed(folder / "model_index.json", **entries)


def _config(role: str, **values: object) -> Callable[[Path], None]:
    name = "scheduler_config.json" if role == "scheduler" else "config.json"
    return lambda folder: changed(folder / role / name, **values)


FAULTS = {
    "no index": (_removed("model_index.json"), "is no pipeline: it has no model_index.json"),
    "no vae": (_removed("vae"), "has no subfolder 'vae', which its model_index.json names"),
    "no text encoder": (_removed("text_encoder"), "has no subfolder 'text_encoder'"),
    "no transformer": (_removed("transformer"), "has no subfolder 'transformer'"),
    "no tokenizer": (_removed("tokenizer"), "has no subfolder 'tokenizer'"),
    "no vocabulary": (_removed("tokenizer", "tokenizer.json"), "holds no tokenizer"),
    "no scheduler": (_removed("scheduler", "scheduler_config.json"), "holds no scheduler_config.json"),
    "no config": (_removed("vae", "config.json"), "holds no config.json"),
    "no weights": (_removed("text_encoder", "model.safetensors"), "text_encoder holds no weights"),
    "no transformer's weights": (_removed("transformer", STEM), "transformer holds no weights"),
    "unknown pipeline": (_classes(_class_name="StableDiffusionPipeline"), "is a StableDiffusionPipeline"),
    "unknown scheduler": (_config("scheduler", _class_name="HeunScheduler"), "no sampler for the scheduler Heun"),
    "nameless scheduler": (_config("scheduler", _class_name=None), "names no _class_name"),
    "other scheduler": (
        _classes(scheduler=["diffusers", "DDIMScheduler"]),
        "and model_index.json names a DDIMScheduler",
    ),
    "unknown encoder": (_classes(text_encoder=["transformers", "UMT5Model"]), "is a UMT5Model, which is none of"),
    "unknown vae": (_classes(vae=["diffusers", "AutoencoderTiny"]), "is a AutoencoderTiny, which is none of"),
    "null encoder": (_classes(text_encoder=[None, None]), "has no text_encoder"),
    "other latents": (
        _config("vae", latent_channels=16),
        "decodes latents of 16 channels, and the transformer makes 4",
    ),
    "no factor": (_config("vae", scaling_factor=None), "scaling_factor is None"),
    "other width": (_config("text_encoder", d_model=64), "makes states of 64 channels, and the transformer's"),
    "absurd sizes": (_config("text_encoder", d_model=10**12), "and at most"),
}


@pytest.mark.parametrize(("change", "message"), FAULTS.values(), ids=FAULTS)
def test_each_fault_is_one_clear_error(change: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    folder = pixart_folder(tmp_path / "p")
    change(folder)
    with pytest.raises(ExportError) as caught:
        planned(folder)
    assert message in caught.value.message


def test_a_misspelt_part_or_pipeline_gets_a_suggestion(tmp_path: Path) -> None:
    folder = pixart_folder(tmp_path / "p")
    with pytest.raises(ExportError, match="no part 'vea'") as caught:
        planned(folder, "vea")
    assert "did you mean 'vae'?" in str(caught.value.hint)
    changed(folder / "model_index.json", _class_name="PixArtPipeline")
    with pytest.raises(ExportError) as caught:
        planned(folder)
    assert "did you mean 'PixArt" in str(caught.value.hint) and "FluxPipeline" in str(caught.value.hint)


def test_the_command_says_so_before_anything_is_written(tmp_path: Path, cli: Cli) -> None:
    folder = pixart_folder(tmp_path / "p")
    shutil.rmtree(folder / "vae")
    outcome = cli("build", "--model-dir", folder, "--components", "all", "--out", tmp_path / "out.dsr")
    assert outcome.code == 1 and "has no subfolder 'vae'" in outcome.err and "trace" not in outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_components_are_those_of_a_folder(cli: Cli) -> None:
    outcome = cli("build", "digits", "--components", "all")
    assert outcome.code == 1 and "--model-dir" in outcome.err


def test_what_is_said_of_a_part_must_be_of_one_that_is_built(tmp_path: Path) -> None:
    from dsr_export.building.part_configs import part_configs

    config = ExportConfig(model_dir=tmp_path, parts=("vae",), precision="int8", part_precision={"vae": "fp32"})
    made = part_configs(config, ("text_encoder", "vae"), ("onnxruntime",))
    assert {role: each.precision for role, each in made.items()} == {"text_encoder": "fp16", "vae": "fp32"}
    assert made["vae"].batch.max * 2 == config.batch.max == made["text_encoder"].batch.max
    assert made["vae"].options == {"part": "vae"} and made["vae"].parts == ()
    with pytest.raises(ExportError, match="--component-precision vae: that part is not built"):
        part_configs(config, ("text_encoder",), ("onnxruntime",))
    with pytest.raises(ExportError, match="vae can't be built in int8"):
        part_configs(ExportConfig(part_precision={"vae": "int8"}), ("vae",), ())


@pytest.mark.parametrize("part", ["text_encoder", "vae", "transformer"])
def test_damaged_weights_of_any_part_are_refused_before_one_is_built(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pixart_folder(tmp_path / "p")
    files = {each.parent.name: each for each in folder.glob("*/*.safetensors")}
    for file in files.values():
        save_file({"a": np.ones(1)}, file)
    files[part].write_bytes(files[part].read_bytes()[:-1])
    from dsr_export.pipeline import export

    monkeypatch.setattr("dsr_export.pipeline._staged", lambda build: pytest.fail("a part was built first"))
    with pytest.raises(ExportError, match=f"{part}/.* is no readable safetensors file"):
        export(ExportConfig(model_dir=folder, parts=("all",), out=tmp_path / "out.dsr"))
    assert not (tmp_path / "out.dsr").exists()
