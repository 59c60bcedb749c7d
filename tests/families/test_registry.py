"""The table of models, `load_subject` and `subject_key`."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from dsr_export.errors import ExportError
from dsr_export.families import FamilyRequest, entry, load_subject, models, subject_key
from dsr_export.families.network_parts.randomise import without_memory
from dsr_export.families.rae_dit.config import resolve_config
from dsr_export.families.rae_dit.models import SIZES
from dsr_export.families.rae_dit.network import RaeDit
from dsr_export.spec import ReplaceSpec
from tests.families.tiny_sizes import SIZES as TINY_SIZES

GROUP = ReplaceSpec(layers=(0, 2), rule="median", threshold=1.5, rounds=2)


def _saved(path: Path, **options: Any) -> Path:
    save_file(load_subject("rae-dit", random_weights=0, **TINY_SIZES, **options).module.state_dict(), path)
    return path


def test_registered_names() -> None:
    names = [model.name for model in models()]
    assert names[:3] == ["digits", "digits-outliers", "digits-gated"]
    assert names[3:7] == ["rae-dit-s", "rae-dit-b", "rae-dit-l", "rae-dit-xl"]
    assert {"siglip", "dinov2", "dinov2-with-registers", "rae-decoder"} <= set(names)
    assert len(set(names)) == len(names)
    assert entry("rae-dit").parameters is None


@pytest.mark.parametrize("model", [m for m in models() if m.family == "rae-dit"], ids=lambda model: model.name)
def test_parameter_counts_are_true(model: Any) -> None:
    base = SIZES.get(model.name)
    module = without_memory(RaeDit, resolve_config(base)) if base else load_subject(model.name).module
    assert sum(weight.numel() for weight in module.parameters()) == model.parameters


def test_unknown_model_names_the_nearest_and_all() -> None:
    with pytest.raises(ExportError, match="digit-outliers") as caught:
        entry("digit-outliers")
    assert "did you mean 'digits-outliers'?" in str(caught.value.hint)
    assert "rae-dit-xl" in str(caught.value.hint)


def test_registry_and_keys_need_neither_torch_nor_onnxruntime() -> None:
    code = (
        "import sys, json, dsr_export; from dsr_export.families import FamilyRequest, models, subject_key\n"
        "keys = [subject_key(FamilyRequest(model=m, random_weights=s)) for m, s in (('digits', None), ('jit', 1))]\n"
        "dsr_export.ExportConfig\n"
        "print(json.dumps([len(models()), [m for m in ('torch', 'onnxruntime', 'onnx') if m in sys.modules]]))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == [len(models()), []]


def test_a_large_model_is_never_random_silently() -> None:
    for call in (load_subject, _key):
        with pytest.raises(ExportError) as caught:
            call("rae-dit-xl")
        assert "--checkpoint FILE or --random-weights SEED" in str(caught.value.hint)


def test_checkpoint_and_seed_exclude_each_other(tmp_path: Path) -> None:
    for call in (load_subject, _key):
        with pytest.raises(ExportError, match="exclude each other"):
            call("digits", checkpoint=tmp_path / "a.pt", random_weights=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_sise": 32}, "hidden_sise"),
        ({"hidden_size": 30}, "not divisible by num_heads"),
        ({"hidden_size": 24}, "not divisible by 4"),
        ({"patch_size": 3}, "does not divide"),
        ({"registers": 4, "register_start": 3}, "outside"),
        ({"registers": 4, "register_start": -1}, "outside"),
        ({"registers": -1}, "negative"),
        ({"registers": 4, "register_len": 5}, "differ"),
        ({"register_conditioning": True}, "at least 1"),
        ({"depth": 0}, "at least 1"),
        ({"depth": 3.0}, "not of type int"),
        ({"num_heads": True}, "not of type int"),
        ({"mlp_ratio": -1.0}, "mlp_ratio"),
        ({"mlp_ratio": float("nan")}, "mlp_ratio"),
        ({"class_dropout_prob": 1.0}, "class_dropout_prob"),
    ],
)
def test_options_that_cannot_be_built_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        load_subject("rae-dit", random_weights=0, **{**TINY_SIZES, **options})


def test_unknown_option_names_the_nearest() -> None:
    with pytest.raises(ExportError) as caught:
        load_subject("rae-dit-s", random_weights=0, hiden_size=32)
    assert "did you mean 'hidden_size'?" in str(caught.value.hint)


def test_free_model_needs_its_sizes() -> None:
    with pytest.raises(ExportError, match="needs hidden_size, num_heads"):
        load_subject("rae-dit", random_weights=0, depth=3)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_impossible_seeds_are_refused(seed: int) -> None:
    with pytest.raises(ExportError, match="no seed"):
        load_subject("rae-dit", random_weights=seed, **TINY_SIZES)


def test_subject_describes_its_module() -> None:
    subject = load_subject("rae-dit", random_weights=5, registers=4, **TINY_SIZES)
    assert [(spec.name, spec.dtype, spec.with_batch(2)) for spec in (*subject.inputs, *subject.outputs)] == [
        ("x", "float32", (2, 3, 4, 4)),
        ("t", "float32", (2,)),
        ("y", "int64", (2,)),
        ("out", "float32", (2, 3, 4, 4)),
    ]
    assert (subject.dsr.denoiser.kind, subject.dsr.denoiser.registers, subject.dsr.denoiser.start) == (
        "diffusion",
        4,
        1,
    )
    assert subject.sampler is not None and subject.sampler.null_label == 5 and subject.sampler.shift_dim == 48
    assert subject.provenance == {"random_seed": 5} and not subject.module.training
    assert all(not weight.requires_grad for weight in subject.module.parameters())
    example = {name: torch.from_numpy(value) for name, value in subject.example(2, seed=0).items()}
    assert subject.module(**example).shape == (2, 3, 4, 4)


def test_registers_0_turns_registers_off() -> None:
    subject = load_subject("rae-dit-s", random_weights=0, registers=0, depth=1, hidden_size=24)
    assert subject.dsr.denoiser.kind == "none" and "register_tokens" not in subject.module.state_dict()


def test_sized_models_have_36_registers_by_default() -> None:
    subject = load_subject("rae-dit-s", random_weights=0, hidden_size=24, in_channels=2)
    assert (subject.dsr.denoiser.registers, subject.dsr.denoiser.start) == (36, 4)


@pytest.mark.parametrize("registers", [0, 5])
def test_registers_are_read_off_the_checkpoint(tmp_path: Path, registers: int) -> None:
    path = _saved(tmp_path / "a.safetensors", registers=registers)
    sizes = {name: TINY_SIZES[name] for name in ("hidden_size", "depth", "num_heads", "num_classes")}
    sizes["register_start"] = 1
    subject = load_subject("rae-dit", checkpoint=path, **sizes)
    assert subject.dsr.denoiser.registers == registers
    assert subject.inputs[0].shape == ("batch", 3, 4, 4)
    assert len(subject.provenance["checkpoint_sha256"]) == 64
    for name, value in (
        load_subject("rae-dit", random_weights=0, registers=registers, **TINY_SIZES).module.state_dict().items()
    ):
        assert torch.equal(value, subject.module.state_dict()[name])


@pytest.mark.parametrize(("held", "asked"), [(5, 4), (5, 0), (0, 4)])
def test_other_registers_than_asked_hint_at_those_held(tmp_path: Path, held: int, asked: int) -> None:
    path = _saved(tmp_path / "a.safetensors", registers=held)
    with pytest.raises(ExportError) as caught:
        load_subject("rae-dit", checkpoint=path, registers=asked, **TINY_SIZES)
    assert f"--registers {held}" in str(caught.value.hint)


def test_checkpoint_of_another_size_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    state = {"pos_embed": torch.zeros(1, 256, 768), **{f"blocks.{i}.norm1.weight": torch.ones(768) for i in range(12)}}
    save_file(state, path)
    with pytest.raises(ExportError, match="768 and 12 blocks") as caught:
        load_subject("rae-dit-l", checkpoint=path)
    assert caught.value.hint == "use rae-dit-b"


class TestSubjectKey:
    def test_every_option_counts(self, tmp_path: Path) -> None:
        files = [tmp_path / "a.pt", tmp_path / "b.pt"]
        for i, file in enumerate(files):
            file.write_bytes(bytes([i]))
        keys = [
            _key("digits"),
            _key("digits-outliers"),
            _key("digits", random_weights=0),
            _key("digits", random_weights=1),
            _key("digits", checkpoint=files[0]),
            _key("digits", checkpoint=files[1]),
            _key("digits", checkpoint=files[1], weights="ema"),
            _key("digits", checkpoint=files[1], weights="model"),
            _key("digits", random_weights=0, registers=0),
            _key("digits", replace=[GROUP]),
            _key("digits", replace=[]),
            _key("digits", replace=[dataclasses.replace(GROUP, registers=str(files[0]))]),
            _key("digits", random_weights=0, options={"depth": 3}),
        ]
        texts = [json.dumps(key, sort_keys=True) for key in keys]
        assert len(set(texts)) == len(texts)

    def test_files_count_by_content(self, tmp_path: Path) -> None:
        for name in ("a.pt", "b.pt"):
            (tmp_path / name).write_bytes(b"same")
        assert _key("digits", checkpoint=tmp_path / "a.pt") == _key("digits", checkpoint=tmp_path / "b.pt")

    def test_a_missing_checkpoint_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(ExportError, match="no such file"):
            _key("rae-dit-s", checkpoint=tmp_path / "none.pt")


def _key(model: str, **asked: Any) -> dict[str, Any]:
    return subject_key(FamilyRequest(model=model, **asked))
