"""`--config stage2.yaml`: what the released trainers' files say, checked against themselves and against checkpoints."""

from __future__ import annotations

import copy
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from dsr_export.bundle.reader import Bundle
from dsr_export.config import ModelRequest
from dsr_export.declarations.released_config import read_released
from dsr_export.errors import ExportError
from dsr_export.sampling import SamplerSpec
from dsr_export.sources import find_source, load_subject
from dsr_export.sources.released_yaml import ReleasedSource
from tests.conftest import Cli

TEXT = """
stage_1: {target: somewhere.Encoder, params: {anything: [1, 2]}}
stage_2:
  target: stage2.models.lightningDiT.LightningDiT
  params:
    input_size: 4
    patch_size: 1
    in_channels: 8
    hidden_size: 48
    depth: 3
    num_heads: 4
    mlp_ratio: 4.0
    class_dropout_prob: 1e-1   # text for YAML 1.1
    num_classes: 5
    use_qknorm: false
    wo_shift: false
    register_conditioning: true
    register_len: 4
    register_start: 1
  ckpt: no/such/folder
transport:
  params: {path_type: 'Linear', prediction: 'data', loss_weight: null, time_dist_type: 'logit-normal_0_1'}
sampler:
  mode: ODE
  params: {sampling_method: 'euler', num_steps: 20, atol: 1.0e-6, rtol: 1.0e-3, reverse: false}
guidance: {method: 'cfg', scale: 1.5, t_min: 0.0, t_max: 1.0}
misc:
  latent_size: [8, 4, 4]
  num_classes: 5
  time_dist_shift_dim: 16384
  time_dist_shift_base: 4096
training: {epochs: 3}
"""
BASE: dict[str, Any] = yaml.safe_load(TEXT)
BASE["stage_2"]["params"]["class_dropout_prob"] = 0.1
WIDE = {"hidden_size": [48, 64], "depth": [3, 2], "num_heads": [4, 2], "use_pos_embed": True}
ABSENT = object()


def _file(folder: Path, changes: dict[str, Any] | None = None, *, wide: bool = False) -> Path:
    """BASE with values set (or, for ABSENT, removed) at dotted names."""
    content = copy.deepcopy(BASE)
    if wide:
        content["stage_2"]["target"] = "stage2.models.DDT.DiTwDDTHead"
        content["stage_2"]["params"] |= WIDE
    for name, value in (changes or {}).items():
        *path, last = name.split(".")
        place = content
        for key in path:
            place = place[key]
        if value is ABSENT:
            del place[last]
        else:
            place[last] = value
    (folder / "tiny.yaml").write_text(yaml.safe_dump(content))
    return folder / "tiny.yaml"


def _weights(folder: Path, *, wide: bool = False, **changes: Any) -> Path:
    """A checkpoint as the trainer writes it, of the model in `_file` with other `params`."""
    params = {f"stage_2.params.{key}": value for key, value in changes.items()}
    model = load_subject(config_file=_file(folder, params | {"misc": {}}, wide=wide), random_weights=7).module
    path = folder / "ep-0000003.pt"
    torch.save({"step": 1, "epoch": 3, "model": {}, "ema": model.state_dict()}, path)
    return path


def test_every_section_counts(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TEXT)
    subject = load_subject(config_file=tmp_path / "tiny.yaml", random_weights=0)
    assert (subject.name, subject.family) == ("tiny", "rae-dit")
    assert subject.sampler == SamplerSpec(
        num_steps=20, prediction="data", shift_dim=16384, shift_base=4096, guidance=1.5, null_label=5
    )
    spec = subject.dsr.denoiser
    assert (spec.kind, spec.registers, spec.start) == ("diffusion", 4, 1)
    assert subject.inputs[0].shape == ("batch", 8, 4, 4) and subject.num_classes == 5
    assert subject.provenance["random_seed"] == 0 and len(subject.provenance["config_sha256"]) == 64
    names = ("hidden_size", "depth", "num_heads", "class_dropout_prob", "register_start")
    assert [subject.config[name] for name in names] == [48, 3, 4, 0.1, 1]


def test_the_wide_head(tmp_path: Path) -> None:
    subject = load_subject(config_file=_file(tmp_path, wide=True), random_weights=0)
    assert subject.family == "rae-dit-dh" and subject.config["hidden_size"] == (48, 64)
    assert (subject.dsr.denoiser.registers, subject.dsr.denoiser.start) == (4, 1)


def test_what_is_left_out_has_the_released_default(tmp_path: Path) -> None:
    file = _file(tmp_path, dict.fromkeys(("transport", "sampler", "guidance", "misc", "training"), ABSENT))
    sampler = load_subject(config_file=file, random_weights=0).sampler
    assert sampler is not None and (sampler.prediction, sampler.num_steps, sampler.guidance) == ("velocity", 50, 1.0)
    file = _file(tmp_path, {"misc.time_dist_shift_dim": ABSENT})
    assert read_released(file).sampler.shift_dim == 8 * 4 * 4


def test_registers_are_off_where_they_are_not_conditioned_on(tmp_path: Path) -> None:
    file = _file(tmp_path, {"stage_2.params.register_conditioning": False})
    assert load_subject(config_file=file, random_weights=0).dsr.denoiser.kind == "none"


def test_options_and_registers_win_over_the_file(tmp_path: Path) -> None:
    subject = load_subject(config_file=_file(tmp_path), random_weights=0, registers=9, depth=2)
    assert subject.dsr.denoiser.registers == 9 and subject.config["depth"] == 2


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_without_guidance_its_method_and_interval_do_not_matter(tmp_path: Path, scale: float) -> None:
    guidance = {"scale": scale, "method": "autoguidance", "t-min": 0.2, "t-max": 0.8}
    assert read_released(_file(tmp_path, {"guidance": guidance})).sampler.guidance == 1.0


PARAMS = "stage_2.params."
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"stage_2": ABSENT}, "no section 'stage_2'", "YAML"),
    ({"transprot": {}}, "unknown section 'transprot'", "did you mean 'transport'?"),
    ({"stage_2.chkpt": "x"}, "stage_2 has no key 'chkpt'", "did you mean 'ckpt'?"),
    ({"stage_2.target": ABSENT}, "stage_2.target is missing", "LightningDiT"),
    ({"stage_2.target": "stage2.models.DDT.DiTwDDTHaed"}, "is unknown", "did you mean 'stage2.models.DDT.DiTwDDTHead'"),
    ({"stage_2.params": [1]}, "stage_2.params is \\[1\\]", "keys and values"),
    ({PARAMS + "hiden_size": 32}, "stage_2.params has no option 'hiden_size'", "did you mean 'hidden_size'?"),
    ({PARAMS + "depth": "three"}, "stage_2.params.depth='three' is not of type int", ""),
    ({PARAMS + "depth": "${misc.depth}"}, "depth: '\\${misc.depth}' is not resolved", "write the value itself"),
    ({PARAMS + "wo_shift": True}, "wo_shift", ""),
    ({PARAMS + "register_start": ABSENT}, "'register_start' is missing", "register_start: 8"),
    ({PARAMS + "register_len": ABSENT}, "'register_len' is missing", "register_len: 36"),
    ({PARAMS + "register_start": 3}, "register_start 3 is outside", ""),
    ({"transport.prams": {}}, "transport has no key 'prams'", "did you mean 'params'?"),
    ({"transport.params.predicton": "data"}, "no key 'predicton'", "did you mean 'prediction'?"),
    ({"transport.params.prediction": "velocty"}, "'velocty' is unknown", "did you mean 'velocity'?"),
    ({"transport.params.prediction": "noise"}, "prediction 'noise' is not supported", "data or velocity"),
    ({"transport.params.path_type": "VP"}, "path_type 'VP' is not supported", "Linear"),
    ({"sampler.mode": "SDE"}, "mode 'SDE' is not supported", "ODE"),
    ({"sampler.params.sampling_method": "dopri5"}, "sampling_method 'dopri5' is not supported", "euler"),
    ({"sampler.params.sampling_method": ABSENT}, "'dopri5', the released default", "euler"),
    ({"sampler.params.reverse": True}, "reverse", "false"),
    ({"sampler.params.clamp_pred": 3.0}, "clamp_pred", "leave it out"),
    ({"sampler.params.num_step": 3}, "no key 'num_step'", "did you mean 'num_steps'?"),
    ({"sampler.params.num_steps": 1}, "num_steps = 1", ""),
    ({"guidance.scales": 3}, "guidance has no key 'scales'", "did you mean 'scale'?"),
    ({"guidance.scale": "big"}, "scale is 'big'", "number"),
    ({"guidance.method": "autoguidance"}, "second model", "scale: 1.0"),
    ({"guidance.t_min": 0.1}, "interval \\[0.1, 1.0\\]", "t_min: 0.0"),
    ({"guidance.t_max": 0.9}, "interval \\[0.0, 0.9\\]", "t_max: 1.0"),
    ({PARAMS + "class_dropout_prob": 0.0}, "guidance needs a null label", "guidance.scale: 1.0"),
    ({"misc.latent_sise": 1}, "misc has no key 'latent_sise'", "did you mean 'latent_size'?"),
    ({"misc.latent_size": [8, 4]}, "latent_size is \\[8, 4\\]", "height"),
    ({"misc.latent_size": [8, 4, 5]}, "not square", ""),
    ({"misc.latent_size": [16, 4, 4]}, "misc.latent_size is \\[16, 4, 4\\], and .* make \\[8, 4, 4\\]", "correct"),
    ({"misc.latent_size": [8, 8, 8]}, "misc.latent_size is \\[8, 8, 8\\]", "correct"),
    ({"misc.num_classes": 6}, "misc.num_classes is 6, and stage_2.params make 5", "correct"),
    ({"misc.null_label": 6}, "null_label is 6, and labels end at 5", ""),
    ({"misc.time_dist_shift_base": 0}, "time_dist_shift_base = 0", ""),
]


@pytest.mark.parametrize(("changes", "message", "hint"), REFUSED, ids=[" ".join(case[0]) for case in REFUSED])
def test_what_cannot_be_is_refused_by_name(tmp_path: Path, changes: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(ExportError, match=message) as caught:
        load_subject(config_file=_file(tmp_path, changes), random_weights=0)
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no sections"),
        ("- 1\n", "has no sections"),
        ("stage_2: [", "is no YAML"),
        ("stage_2: {depth: 1, depth: 2}", "'depth' is given twice"),
        ("a: !!python/object/apply:os.mkdir [x]\n", "is no YAML"),
        ("a: 2001-99-99\n", "is no YAML"),
        ("[" * 3000, "is no YAML"),
        ("a: &a [1, 1]\nmisc: {latent_size: [*a, *a, *a]}\nstage_2: {target: x}\n", "latent_size is"),
    ],
)
def test_files_of_something_else_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.yaml").write_text(text.replace("target: x", "target: stage2.models.DDT.DiTwDDTHead"))
    with pytest.raises(ExportError, match=message):
        read_released(tmp_path / "a.yaml")
    assert not Path("x").exists()


@pytest.mark.parametrize("place", ["misc: *l39", "misc: {num_classes: *l39}", "sampler: {mode: {a: *l39}}"])
def test_aliases_cannot_blow_up_a_message(tmp_path: Path, place: str) -> None:
    levels = "\n".join(f"l{i}: &l{i} [*l{i - 1}, *l{i - 1}, *l{i - 1}, *l{i - 1}]" for i in range(1, 40))
    (tmp_path / "a.yaml").write_text(
        f"l0: &l0 [1]\n{levels}\nstage_2: {{target: stage2.models.DDT.DiTwDDTHead}}\n{place}\n"
    )
    with pytest.raises(ExportError, match=" is ") as caught:
        read_released(tmp_path / "a.yaml")
    assert len(caught.value.message) - len(str(tmp_path)) < 150


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no such file"):
        read_released(tmp_path / "a.yaml")
    with pytest.raises(ExportError, match="can't be read"):
        read_released(tmp_path)
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ExportError, match="is no YAML"):
        read_released(tmp_path / "b.yaml")


class TestWeights:
    @pytest.mark.parametrize("wide", [False, True])
    def test_a_trainers_checkpoint_loads(self, tmp_path: Path, wide: bool) -> None:
        checkpoint = _weights(tmp_path, wide=wide)
        subject = load_subject(config_file=_file(tmp_path, wide=wide), checkpoint=checkpoint)
        expected = load_subject(config_file=_file(tmp_path, wide=wide), random_weights=7).module.state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in subject.module.state_dict().items())
        assert set(subject.provenance) == {"checkpoint_sha256", "config_sha256", "weights"}

    def test_the_files_own_checkpoint_is_the_default(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        checkpoint = _weights(tmp_path)
        monkeypatch.chdir(tmp_path)
        own = load_subject(config_file=_file(tmp_path, {"stage_2.ckpt": checkpoint.name}))
        assert "checkpoint_sha256" in own.provenance
        seeded = load_subject(config_file=_file(tmp_path, {"stage_2.ckpt": checkpoint.name}), random_weights=1)
        assert "random_seed" in seeded.provenance

    @pytest.mark.parametrize(
        ("ckpt", "state"), [(ABSENT, "none"), ("gone", "gone, which is not here"), (".", "a folder")]
    )
    def test_no_weights_are_never_random_ones(self, tmp_path: Path, ckpt: Any, state: str) -> None:
        source = find_source(ModelRequest(config_file=_file(tmp_path, {"stage_2.ckpt": ckpt})))
        for ask in (source.key, source.load):
            with pytest.raises(ExportError, match=state) as caught:
                ask()
            assert "--checkpoint FILE or --random-weights SEED" in str(caught.value.hint)

    @pytest.mark.parametrize("wide", [False, True])
    @pytest.mark.parametrize(
        ("held", "message"),
        [
            ({"register_len": 9}, "register_len is 4, and the checkpoint has 9"),
            ({"register_conditioning": False}, "register_len is 4, and the checkpoint has 0"),
            ({"in_channels": 6}, "in_channels is 8, and the checkpoint has 6"),
            ({"input_size": 3}, "input_size is 4, and the checkpoint has 3"),
        ],
    )
    def test_a_checkpoint_of_something_else(
        self, tmp_path: Path, held: dict[str, Any], message: str, wide: bool
    ) -> None:
        checkpoint = _weights(tmp_path, wide=wide, **held)
        with pytest.raises(ExportError, match=message):
            load_subject(config_file=_file(tmp_path, wide=wide), checkpoint=checkpoint)

    def test_trained_registers_that_the_file_does_not_know(self, tmp_path: Path) -> None:
        checkpoint = _weights(tmp_path)
        file = _file(tmp_path, {"stage_2.params.register_conditioning": False})
        with pytest.raises(ExportError, match="register_len is 0, and the checkpoint has 4") as caught:
            load_subject(config_file=file, checkpoint=checkpoint)
        assert "register_conditioning: true, register_len: 4 and register_start" in str(caught.value.hint)
        with pytest.raises(ExportError, match="which of 3 blocks"):
            load_subject(config_file=file, checkpoint=checkpoint, registers=4)
        subject = load_subject(config_file=file, checkpoint=checkpoint, registers=4, register_start=2)
        assert subject.dsr.denoiser.start == 2

    def test_a_checkpoint_of_another_depth(self, tmp_path: Path) -> None:
        with pytest.raises(ExportError, match="hidden size 48 and 2 blocks, 'tiny.yaml' 48 and 3"):
            load_subject(checkpoint=_weights(tmp_path, depth=2), config_file=_file(tmp_path))

    def test_weights_are_asked_for_once(self, tmp_path: Path) -> None:
        with pytest.raises(ExportError, match="exclude each other"):
            find_source(ModelRequest(config_file=_file(tmp_path), checkpoint=tmp_path / "a.pt", random_weights=0))
        with pytest.raises(ExportError, match="is no seed"):
            find_source(ModelRequest(config_file=_file(tmp_path), random_weights=-1))


class TestSource:
    def test_other_forms_of_a_model_exclude_it(self, tmp_path: Path) -> None:
        for other in (ModelRequest(model="rae-dit-s"), ModelRequest(model_dir=tmp_path)):
            with pytest.raises(ExportError, match="give one of them|both"):
                find_source(dataclasses.replace(other, config_file=_file(tmp_path), random_weights=0))

    def test_the_name_is_the_files(self, tmp_path: Path) -> None:
        source = find_source(ModelRequest(config_file=_file(tmp_path), random_weights=0))
        assert isinstance(source, ReleasedSource) and source.name == "tiny"

    def test_every_part_of_the_request_counts(self, tmp_path: Path) -> None:
        file = _file(tmp_path)
        save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors")
        (tmp_path / "a.toml").write_text("[denoiser]\nkind = 'none'\n")
        requests = [
            ModelRequest(config_file=file, random_weights=0),
            ModelRequest(config_file=file, random_weights=1),
            ModelRequest(config_file=file, checkpoint=tmp_path / "a.safetensors"),
            ModelRequest(config_file=file, random_weights=0, registers=9),
            ModelRequest(config_file=file, random_weights=0, dsr=tmp_path / "a.toml"),
            ModelRequest(config_file=file, random_weights=0, options={"depth": 2}),
        ]
        keys = [json.dumps(find_source(request).key(), sort_keys=True) for request in requests]
        changed = ModelRequest(config_file=_file(tmp_path, {"guidance.scale": 2.0}), random_weights=0)
        keys.append(json.dumps(find_source(changed).key(), sort_keys=True))
        assert len(set(keys)) == len(keys)

    def test_a_declaration_adds_replacement(self, tmp_path: Path) -> None:
        (tmp_path / "a.toml").write_text("[[denoiser.replace]]\nlayers = [1]\nrule = 'median'\nthreshold = 1.5\n")
        subject = load_subject(config_file=_file(tmp_path), random_weights=0, dsr=tmp_path / "a.toml")
        assert subject.dsr.sites()["ReplaceOutliers"] == 1 and subject.dsr.denoiser.registers == 4

    def test_the_key_needs_no_torch(self, tmp_path: Path) -> None:
        code = (
            "import sys; from pathlib import Path; from dsr_export.config import ModelRequest\n"
            "from dsr_export.sources import find_source\n"
            "find_source(ModelRequest(config_file=Path(sys.argv[1]), random_weights=0)).key()\n"
            "print([m for m in ('torch', 'onnxruntime') if m in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code, _file(tmp_path)], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_build_from_the_command_line(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"depth": [1, 1], "register_start": 0}
    checkpoint = _weights(tmp_path, wide=True, **small)
    monkeypatch.chdir(tmp_path)
    file = _file(tmp_path, {PARAMS + key: value for key, value in small.items()}, wide=True)
    arguments = ["--config", file, "--checkpoint", checkpoint, "--target", "onnxruntime"]
    done = cli("build", *arguments, "--batch", "1,2,2", "--trajectory-steps", "3", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["passed"]
    model = Bundle.open(tmp_path / "tiny.dsr").manifest.model
    assert (model["name"], model["family"]) == ("tiny", "rae-dit-dh")
