"""A pipeline's own walks as calibration data: the calls are those of diffusers, and the ids of rows depend on none."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from calibration.collect import Call
from dsr_export.config import ModelRequest
from dsr_export.declarations.int8_options import Int8Options
from dsr_export.errors import ExportError
from dsr_export.int8.pipeline_data import PipelineWalks
from dsr_export.sampling import seeded_noise
from dsr_export.sources import find_source
from dsr_export.subject import Subject, require_module
from dsr_export.walks.asked import SEED, PipelineWalk, pipeline_walk
from dsr_export.walks.shipped_prompts import SHIPPED
from tests.pipelines.tiny_pipelines import OPTIONS, tiny_pipeline

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers, of NumPy 2
STEPS = 3
PROMPTS = ("A small red cat on the table", "a dog")
LARGE = 200_000_000  # parameters; such a model gets fewer rows a call
TOKENS = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PixArt-Sigma's."""
    made = tmp_path_factory.mktemp("pixart")
    tiny_pipeline("pixart-sigma", made)
    return made / "pipe"


def request_of(folder: Path, name: str = "pixart-sigma") -> ModelRequest:
    return ModelRequest(model_dir=folder, options=OPTIONS[name])


def walk_of(folder: Path, name: str = "pixart-sigma", **options: Any) -> PipelineWalk:
    found = pipeline_walk(request_of(folder, name), Int8Options(**{"steps": STEPS, **options}))
    assert found is not None
    return found


def loaded(folder: Path, name: str = "pixart-sigma") -> Subject:
    return require_module(find_source(request_of(folder, name)).load())


def calls_of(
    walk: PipelineWalk, subject: Subject, only: set[int] | None = None, **card: Any
) -> tuple[PipelineWalks, list[Call]]:
    """What is walked, the model itself giving the answers."""
    found: list[Call] = []
    data = PipelineWalks(walk, dataclasses.replace(subject.card(), **card))
    with subject.reference() as runner:

        def answer(call: Call) -> np.ndarray:
            found.append(call)
            return next(iter(runner.infer(call.inputs).values()))

        data.drive(answer, lambda done, total: None, only)
    return data, found


def prompts_file(folder: Path, *prompts: str) -> Path:
    file = folder / "prompts.txt"
    file.write_text("\n".join(prompts), encoding="utf-8")
    return file


# -- what is fed


def given_by_diffusers(pipe: Any, name: str, noise: np.ndarray) -> list[dict[str, np.ndarray]]:
    """What its pipeline calls its transformer with, of two prompts or two classes, by our names."""
    seen: list[dict[str, np.ndarray]] = []
    latents, height, width = torch.from_numpy(noise), *noise.shape[2:]
    names = ("hidden_states", "encoder_hidden_states", "encoder_attention_mask", "pooled_projections", "timestep")

    def watch(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = {**dict(zip(("hidden_states",), args, strict=False)), **kwargs}
        found = {each: given[each].float().numpy().copy() for each in names if given.get(each) is not None}
        if name == "dit":
            labels = given["class_labels"].numpy()
            found = {"x": found["hidden_states"], "t": found["timestep"], "y": np.roll(labels, 2)}  # those of none last
        seen.append(found)

    asked: dict[str, Any] = {"num_inference_steps": STEPS, "output_type": "latent"}
    hook = pipe.transformer.register_forward_pre_hook(watch, with_kwargs=True)
    try:
        if name == "dit":
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("diffusers.pipelines.dit.pipeline_dit.randn_tensor", lambda *_, **__: latents.clone())
                pipe([0, 500], **asked)
            return seen
        if name == "flux":
            latents = pipe._pack_latents(latents, len(noise), noise.shape[1], height, width)
        asked |= {"height": height * 2, "width": width * 2, "max_sequence_length": TOKENS}
        if name.startswith(("pixart", "sana")):
            asked["use_resolution_binning"] = False
        pipe(list(PROMPTS), latents=latents, **asked)
    finally:
        hook.remove()
    return seen


@pytest.mark.parametrize(
    "name", ["pixart-sigma", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sd3", "flux", "sana", "dit"))]
)
def test_the_calls_are_those_of_diffusers_pipeline(name: str, tmp_path: Path) -> None:
    """Its own guidance, its own schedule; of a pipeline of classes two that are far apart."""
    pipe = tiny_pipeline(name, tmp_path)
    file = {} if name == "dit" else {"data": str(prompts_file(tmp_path, *PROMPTS))}
    walk = walk_of(tmp_path / "pipe", name, images=2, **file)
    subject = loaded(tmp_path / "pipe", name)
    _, calls = calls_of(walk, subject)
    noise = seeded_noise(SEED, 2, walk.recipe(subject.card()).latent)
    wanted = given_by_diffusers(pipe, name, noise)
    assert len(calls) == len(wanted) == STEPS
    for call, given in zip(calls, wanted, strict=True):
        assert len(call.samples) == (2 if name == "flux" else 4)
        for key, value in given.items():
            value = np.broadcast_to(value, call.inputs[key].shape) if value.ndim < 2 else value
            np.testing.assert_allclose(call.inputs[key], value, rtol=0, atol=2e-4 * max(1, np.abs(value).max()))
    np.testing.assert_allclose([call.progress[0] for call in calls], [0, 0.5, 1])


@pytest.mark.parametrize(("name", "text_rows"), [("sd3", None), ("flux", (0, 12))])
def test_padding_is_told_where_no_input_of_the_model_says_it(
    name: str, text_rows: tuple[int, int] | None, tmp_path: Path
) -> None:
    """Row by row, also where a call takes fewer rows than a step has."""
    tiny_pipeline(name, tmp_path)
    walk = walk_of(tmp_path / "pipe", name, images=2, data=str(prompts_file(tmp_path, "a dog", "a cat on the table")))
    subject = loaded(tmp_path / "pipe", name)
    assert subject.card().text_rows == text_rows
    found = []
    for limits in ((1, None), (1, 1)):
        _, calls = calls_of(walk, subject, batch_limits=limits)
        masks = [call.prompt_mask for call in calls if call.progress[0] == 0]
        assert all(mask is not None for mask in masks)
        found.append(np.concatenate([mask for mask in masks if mask is not None]))
    by_rows = found[0] if name == "flux" else found[0][[0, 2, 1, 3]]  # of nothing, then of prompts: image by image
    np.testing.assert_array_equal(found[1], by_rows)
    lengths = found[1][:, -12:].sum(axis=1).tolist()  # of T5's tokens
    assert lengths == ([3, 6] if name == "flux" else [1, 3, 1, 6])


def test_without_prompts_those_that_are_shipped_are_walked(folder: Path) -> None:
    walk = walk_of(folder, images=3)
    assert walk.prompts == SHIPPED[:3] and len(set(SHIPPED)) == len(SHIPPED) == 16
    assert walk.told(loaded(folder).card())["steps"] == STEPS
    again = walk_of(folder, images=20)
    assert again.prompts == SHIPPED and again.drawn(loaded(folder).card()).prompt(16) == SHIPPED[0]


def test_each_given_prompt_is_drawn_once_at_least(folder: Path, tmp_path: Path) -> None:
    file = prompts_file(tmp_path, *(f"a cat on {i} tables" for i in range(6)))
    walk = walk_of(folder, data=str(file))
    assert (walk.images, len(walk.prompts)) == (6, 6)
    card = loaded(folder).card()
    told = {"pipeline": "PixArtSigmaPipeline", "images": 6, "steps": STEPS, "prompts": list(walk.prompts)}
    assert walk.told(card) == told
    assert walk_of(folder, steps=None).drawn(card).steps == 20
    assert walk_of(folder, steps=None).drawn(dataclasses.replace(card, parameters=LARGE)).steps == 6


@pytest.mark.parametrize(
    ("card", "size"), [({"parameters": LARGE}, 2), ({"batch_limits": (1, 1)}, 1), ({"batch_limits": (3, 3)}, 3)]
)
def test_rows_have_the_same_ids_and_values_in_calls_of_any_size(card: dict[str, Any], size: int, folder: Path) -> None:
    walk, subject = walk_of(folder, images=5), loaded(folder)
    _, whole = calls_of(walk, subject)
    _, other = calls_of(walk, subject, **card)
    assert max(len(call.samples) for call in whole) == 8
    assert {len(call.samples) for call in other} == {size}
    rows, others = _by_id(whole), _by_id(other)
    assert len(rows) == 5 * 2 * STEPS and others.keys() == rows.keys()
    for sample, row in rows.items():
        np.testing.assert_allclose(others[sample], row, rtol=0, atol=1e-5 * np.abs(row).max())


def _by_id(calls: list[Call]) -> dict[int, np.ndarray]:
    """The latents of each row, and what else it is given."""
    rows: dict[int, np.ndarray] = {}
    for call in calls:
        for i, sample in enumerate(call.samples.tolist()):
            given = [call.inputs[name][i].ravel() for name in sorted(call.inputs)]
            row = np.concatenate([*given, call.progress[i : i + 1]])
            np.testing.assert_array_equal(rows.setdefault(sample, row), row)
    return rows


def test_sections_are_walked_apart_to_the_last_bit(folder: Path) -> None:
    """Prompts are encoded alone, so that a share without the others makes the same of its own."""
    walk, subject = walk_of(folder, images=9), loaded(folder)
    data, whole = calls_of(walk, subject)
    count = data.sections.count
    assert count == 3 and [call.section for call in whole] == [0] * STEPS + [1] * STEPS + [2] * STEPS
    apart: list[Call] = []
    for section in reversed(range(count)):
        apart = calls_of(walk, subject, {section})[1] + apart
    assert [call.samples.tolist() for call in apart] == [call.samples.tolist() for call in whole]
    for one, other in zip(apart, whole, strict=True):
        assert {name: value.tobytes() for name, value in one.inputs.items()} == {
            name: value.tobytes() for name, value in other.inputs.items()
        }


# -- what it is known by


def test_a_walk_is_known_by_prompts_encoders_and_tokenizer(folder: Path, tmp_path: Path) -> None:
    known = walk_of(folder).stage_key()
    assert walk_of(folder).stage_key() == known
    seen = [known]
    for options in ({"images": 5}, {"steps": 4}, {"data": str(prompts_file(tmp_path, *PROMPTS))}):
        seen.append(walk_of(folder, **options).stage_key())
    for i, change in enumerate((_another_encoder, _another_scheduler, _another_tokenizer)):
        copy = shutil.copytree(folder, tmp_path / f"pipe{i}")
        change(copy)
        seen.append(walk_of(copy).stage_key())
    texts = [json.dumps(key, sort_keys=True) for key in seen]
    assert len(set(texts)) == len(texts) == 7


def _another_encoder(pipe: Path) -> None:
    weights = next((pipe / "text_encoder").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")


def _another_scheduler(pipe: Path) -> None:
    _set(pipe / "scheduler" / "scheduler_config.json", beta_end=0.03)


def _another_tokenizer(pipe: Path) -> None:
    _set(pipe / "tokenizer" / "tokenizer_config.json", model_max_length=11)


def _set(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_other_data_are_no_walk(folder: Path, tmp_path: Path) -> None:
    for options in (
        Int8Options(data="random:0"),
        Int8Options(data=str(tmp_path / "rows.npz")),
        Int8Options(tables=(tmp_path / "calibration.json",)),
    ):
        assert pipeline_walk(request_of(folder), options) is None
    assert pipeline_walk(ModelRequest(), Int8Options()) is None


# -- what is refused, before anything is traced


def _gone(pipe: Path) -> None:
    shutil.rmtree(pipe / "text_encoder")


def _unknown(pipe: Path) -> None:
    _set(pipe / "model_index.json", _class_name="HunyuanDiTPipeline")


@pytest.mark.parametrize(
    ("change", "message"),
    [(_gone, "no subfolder 'text_encoder'"), (_unknown, "HunyuanDiTPipeline, which is no pipeline known here")],
)
def test_a_pipeline_that_cannot_be_walked_takes_other_data(
    change: Callable[[Path], None], message: str, folder: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(folder, tmp_path / "pipe")
    change(copy)
    with pytest.raises(ExportError, match=f"calibration walks the whole pipeline: .*{message}") as told:
        pipeline_walk(request_of(copy), Int8Options())
    assert "or give --calibration a folder or an npz file with the model's inputs" in str(told.value.hint)
    assert pipeline_walk(request_of(copy), Int8Options(data="random:0")) is None


def test_a_part_alone_has_nothing_to_walk(folder: Path) -> None:
    parts = (ModelRequest(model_dir=folder / "transformer"), ModelRequest(model_dir=folder, options={"part": "vae"}))
    for request in parts:
        with pytest.raises(ExportError, match="is no pipeline, so there are no trajectories to calibrate with") as told:
            pipeline_walk(request, Int8Options())
        assert str(told.value.hint).endswith("or --model-dir the whole pipeline's folder")
        assert pipeline_walk(request, Int8Options(data="random:0")) is None


def test_prompts_are_for_pipelines_that_take_them(folder: Path, tmp_path: Path) -> None:
    options = Int8Options(data=str(prompts_file(tmp_path, *PROMPTS)))
    for request in (ModelRequest(), ModelRequest(model_dir=folder / "transformer")):
        with pytest.raises(ExportError, match="holds prompts, and no pipeline is built"):
            pipeline_walk(request, options)
    tiny_pipeline("dit", tmp_path)
    with pytest.raises(ExportError, match="holds prompts, and DiTPipeline takes classes"):
        pipeline_walk(request_of(tmp_path / "pipe", "dit"), options)
    with pytest.raises(ExportError, match="holds no prompts") as told:
        pipeline_walk(request_of(folder), Int8Options(data=str(prompts_file(tmp_path, "", " "))))
    assert told.value.hint == "give --calibration a text file with one prompt a line"


def test_sizes_and_steps_that_do_not_fit_are_refused_once_the_model_is_traced(folder: Path) -> None:
    card = loaded(folder).card()
    walk_of(folder).check(card)
    longer = dataclasses.replace(request_of(folder), options={"text_tokens": 7})
    other = pipeline_walk(longer, Int8Options())
    assert other is not None
    with pytest.raises(ExportError, match=r"the transformer takes prompts of \[12\], and .* for \[7\]") as told:
        other.check(card)
    assert "--option latent_height=, latent_width=, text_tokens=; or give --calibration" in str(told.value.hint)
    with pytest.raises(ExportError, match="calibration walks the whole pipeline: "):
        walk_of(folder, steps=5000).check(card)
