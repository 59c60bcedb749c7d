"""The general adapter gives diffusers' own numbers, for inputs that pipelines would give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dsr_export.backends.onnxruntime import OnnxRuntimeRunner
from dsr_export.errors import ExportError
from graphs.lowering import lower
from tests.families.diffusers.general.tiny import TINY, bare_folder, loaded, saved

pytest.importorskip("diffusers", reason="the models extra is not installed")


@pytest.mark.parametrize("class_name", TINY)
def test_a_folder_gives_the_numbers_of_diffusers(class_name: str, tmp_path: Path) -> None:
    tiny, model = TINY[class_name], saved(class_name, tmp_path)
    subject = loaded(tmp_path, options=tiny.options)
    assert {spec.name: spec.shape for spec in subject.inputs} == {
        name: ("batch", *shape) for name, shape in tiny.inputs.items()
    }
    example = subject.example(3, seed=1)
    with subject.reference() as runner:
        out = runner.infer(example)["out"]
    given = {name: torch.from_numpy(value) for name, value in example.items()}
    with torch.no_grad():
        made = model(**{**given, **tiny.beside(given)}, return_dict=False)[0]
    expected = (torch.stack(made) if isinstance(made, list) else made).numpy()
    assert expected.std() > 0.01
    np.testing.assert_allclose(out, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_two_pictures_are_handed_over_as_rows(tmp_path: Path) -> None:
    """Wan between a first frame and a last: its pipeline gives [2 * batch, tokens, channels], of which it makes one."""
    name = "WanTransformer3DModel"
    model = saved(name, tmp_path, pos_embed_seq_len=10)
    subject = loaded(tmp_path, options=TINY[name].options)
    assert {spec.name: spec.shape for spec in subject.inputs}["encoder_hidden_states_image"] == ("batch", 10, 18)
    given = {key: torch.from_numpy(value) for key, value in subject.example(3, seed=1).items()}
    with subject.reference() as runner:
        out = runner.infer({key: value.numpy() for key, value in given.items()})["out"]
    pictures = given.pop("encoder_hidden_states_image")
    rows = torch.stack([row[part] for row in pictures for part in (slice(5), slice(5, 10))])
    with torch.no_grad():
        expected = model(**given, encoder_hidden_states_image=rows, return_dict=False)[0].numpy()
    np.testing.assert_allclose(out, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("registers", [None, 2])
def test_a_config_that_diffusers_itself_cannot_run_is_not_blamed_on_the_batch(
    registers: int | None, tmp_path: Path
) -> None:
    name = "CogVideoXTransformer3DModel"
    config = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 1, "time_embed_dim": 12}
    folder = bare_folder(tmp_path / "bare", name, {**config, "ofs_embed_dim": 8, "text_embed_dim": 20})
    sizes = {"latent_height": 4, "latent_width": 4, "latent_frames": 1}
    with pytest.raises(ExportError, match="must match the size of tensor b") as caught:
        loaded(folder, random_weights=0, options=sizes, registers=registers)
    assert "config.json" in str(caught.value.hint) and "batch" not in str(caught.value.hint)


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_it_becomes_a_graph_of_any_batch(name: str, tmp_path: Path) -> None:
    folder = bare_folder(tmp_path / "bare", name, TINY[name].config)
    subject = loaded(folder, random_weights=0, options=TINY[name].options)
    traced = subject.trace(tmp_path / "traced.onnx")
    assert traced.batch_limits == (1, None)
    lowered, _ = lower(traced, tmp_path / "lowered.onnx")
    with OnnxRuntimeRunner(lowered.path, inputs=subject.inputs) as runner, subject.reference() as reference:
        for batch in (1, 2, 5):
            inputs = subject.example(batch, seed=2)
            np.testing.assert_allclose(runner.infer(inputs)["out"], reference.infer(inputs)["out"], atol=1e-4)


def test_seeded_weights_need_no_weight_files_and_move_no_generator(tmp_path: Path) -> None:
    name = "SanaTransformer2DModel"
    folder = bare_folder(tmp_path / "bare", name, TINY[name].config)
    before = torch.random.get_rng_state()
    first, again, other = (loaded(folder, random_weights=seed, options={"text_tokens": 5}) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    inputs = first.example(2, seed=0)
    outs = []
    for subject in (first, again, other):
        with subject.reference() as runner:
            outs.append(runner.infer(inputs)["out"])
    np.testing.assert_array_equal(outs[0], outs[1])
    assert np.abs(outs[0] - outs[2]).max() > 0.01


def test_a_weight_too_few_is_named(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    saved("SanaTransformer2DModel", tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    state.pop("proj_out.weight")
    save_file(state, file)
    with pytest.raises(ExportError, match=r"proj_out\.weight"):
        loaded(tmp_path)


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"latent_heigth": 8}, "has no option 'latent_heigth'", "latent_height"),
        ({"latent_width": 7}, "patches of 2 do not divide a latent width of 7", "latent_width=8"),
        ({"text_tokens": 0}, "no whole number from 1", ""),
        ({"register_start": 1}, "register_start is given, but no registers are", "register_file"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, int], message: str, hint: str, tmp_path: Path) -> None:
    name = "WanTransformer3DModel"
    folder = bare_folder(tmp_path / "bare", name, TINY[name].config)
    with pytest.raises(ExportError, match=message) as caught:
        loaded(folder, random_weights=0, options=options)
    assert hint in str(caught.value.hint)
