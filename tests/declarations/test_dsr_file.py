"""`--dsr FILE`: what is read, what is refused and with which hint, and what its digest covers."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from dsr_export.declarations.dsr_file import dsr_digest, read_dsr_file
from dsr_export.errors import ExportError
from dsr_export.spec import DenoiserSpec, DsrSpec, EncoderSpec, ReplaceSpec

TEST_TIME = '[encoder]\nkind = "test-time"\nneurons = "neurons.json"\n'
SIZES = {"input_size": 4, "in_channels": 3, "hidden_size": 32, "depth": 3, "num_heads": 4, "num_classes": 5}
REPLACE = '[[denoiser.replace]]\nlayers = [4, 8]\nrule = "median"\nthreshold = 4\n'


def _file(folder: Path, text: str, neurons: str = '{"3": [7, 2, 7], "10": [0], "11": []}') -> Path:
    (folder / "neurons.json").write_text(neurons)
    path = folder / "dsr.toml"
    path.write_text(text)
    return path


def test_test_time_registers(tmp_path: Path) -> None:
    path = _file(tmp_path, TEST_TIME + 'registers = 2\nscale = [1, 0.5]\nnormal_values = "only_outliers"\n')
    expected = EncoderSpec(
        kind="test-time",
        registers=2,
        scale=(1.0, 0.5),
        normal_values="only_outliers",
        neurons={3: (2, 7), 10: (0,)},  # duplicates count once, layers without neurons not at all
    )
    assert read_dsr_file(path).spec == DsrSpec(encoder=expected)
    assert read_dsr_file(path).spec.sites()["ShiftRegisterNeurons"] == 2


def test_test_time_defaults_are_the_released_ones(tmp_path: Path) -> None:
    spec = read_dsr_file(_file(tmp_path, TEST_TIME)).spec.encoder
    assert (spec.registers, spec.scale, spec.normal_values) == (1, (1.0,), "zero")


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ('[encoder]\nkind = "none"\n', EncoderSpec()),
        ('[encoder]\nkind = "trained"\n', EncoderSpec(kind="trained")),
        ('[encoder]\nkind = "trained"\nregisters = 4\n', EncoderSpec(kind="trained", registers=4)),
    ],
)
def test_other_kinds_of_encoder(tmp_path: Path, text: str, spec: EncoderSpec) -> None:
    assert read_dsr_file(_file(tmp_path, text)).spec == DsrSpec(encoder=spec)


def test_denoiser(tmp_path: Path) -> None:
    (tmp_path / "rows.safetensors").write_bytes(b"rows")
    path = _file(
        tmp_path,
        '[denoiser]\nkind = "diffusion"\nregisters = 36\nstart = 8\n'
        + REPLACE
        + 'rounds = 2\nchoice = "nearest"\nregisters = "diffusion"\n'
        + '[[denoiser.replace]]\nlayers = [0]\nrule = "absolute"\nthreshold = 1.5\nregisters = "rows.safetensors"\n'
        + 'stream = "text"\n',
    )
    groups = (
        ReplaceSpec(layers=(4, 8), rule="median", threshold=4.0, rounds=2),
        ReplaceSpec(
            layers=(0,), rule="absolute", threshold=1.5, registers=str(tmp_path / "rows.safetensors"), stream="text"
        ),
    )
    assert read_dsr_file(path).spec.denoiser == DenoiserSpec(kind="diffusion", registers=36, start=8, replace=groups)
    assert read_dsr_file(path).spec.sites() == {"ReplaceOutliers": 3, "ShiftRegisterNeurons": 0}


def test_a_group_may_be_of_the_prompts_tokens(tmp_path: Path) -> None:
    (group,) = read_dsr_file(_file(tmp_path, REPLACE + 'stream = "text"\n')).spec.denoiser.replace
    assert group == ReplaceSpec(layers=(4, 8), rule="median", threshold=4.0, stream="text")


def test_the_keys_that_are_given_are_told_from_defaults(tmp_path: Path) -> None:
    file = read_dsr_file(_file(tmp_path, "[denoiser]\nregisters = 4\n"))
    assert file.spec.denoiser.kind == "diffusion"
    assert file.given == {"denoiser", "denoiser.registers"}


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "declares nothing", "[encoder]"),
        ("[encoder\n", "is no TOML", ""),
        ('[encodr]\nkind = "none"\n', "no key 'encodr'", "did you mean 'encoder'?"),
        ('encoder = "none"\n', "not a table", "[encoder]"),
        ("[encoder]\n", "lacks 'kind'", "kind ="),
        ('[encoder]\nkind = "test_time"\n', "'test_time' is unknown", "did you mean 'test-time'?"),
        ('[encoder]\nkind = "diffusion"\n', "'diffusion' is unknown", "one of trained, appended, test-time, none"),
        (TEST_TIME + "normal_value = 1\n", "no key 'normal_value'", "did you mean 'normal_values'?"),
        (TEST_TIME + 'normal_values = "zeros"\n', "'zeros' is unknown", "did you mean 'zero'?"),
        (TEST_TIME + "registers = 0\n", "registers = 0 is not", "registers"),
        (TEST_TIME + "registers = true\n", "registers = True is not", "registers"),
        (TEST_TIME + "registers = 1.0\n", "registers = 1.0 is not", "registers"),
        (TEST_TIME + "registers = 2\nscale = [1.0]\n", "1 scales for 2 registers", "one per register"),
        (TEST_TIME + "scale = []\n", "is not a finite number", "scale"),
        (TEST_TIME + "scale = nan\n", "is not a finite number", "scale"),
        (TEST_TIME + "scale = [true]\n", "is not a finite number", "scale"),
        ('[encoder]\nkind = "test-time"\n', "lacks 'neurons'", "neurons.json"),
        ('[encoder]\nkind = "test-time"\nneurons = 3\n', "not a text", "neurons"),
        ('[encoder]\nkind = "test-time"\nneurons = "none.json"\n', "no such file", "relative to the TOML file"),
        ('[encoder]\nkind = "test-time"\nneurons = "."\n', "neuron table", "relative to the TOML file"),
        ('[encoder]\nkind = "trained"\nneurons = "neurons.json"\n', "takes no 'neurons'", "remove"),
        ('[encoder]\nkind = "trained"\nscale = 1.0\n', "takes no 'scale'", "remove"),
        ('[encoder]\nkind = "none"\nregisters = 1\n', "takes no 'registers'", "remove"),
        ('[denoiser]\nkind = "none"\nregisters = 1\n', "takes no 'registers'", "remove"),
        ("[denoiser]\nregisters = -1\n", "registers = -1 is not", "registers"),
        ("[denoiser]\nreplace = 3\n", "no list of tables", "[[denoiser.replace]]"),
        ("[[denoiser.replace]]\nrule = 'median'\n", "lacks 'layers'", "[4, 8]"),
        (REPLACE.replace("[4, 8]", "[-1]"), "layers = [-1] is not", "layers"),
        (REPLACE.replace("[4, 8]", "[4, 4]"), "repeat", "one replacement per layer"),
        (REPLACE.replace("[4, 8]", "[]"), "layers = [] is not", "layers"),
        (REPLACE + 'stream = "texts"\n', "'texts' is unknown", "did you mean 'text'?"),
        (REPLACE.replace("median", "mean"), "'mean' is unknown", "did you mean 'median'?"),
        (REPLACE.replace("= 4", "= 0"), "positive", "threshold"),
        (REPLACE.replace("= 4", "= inf"), "finite", "threshold"),
        (REPLACE + "rounds = 0\n", "rounds = 0 is not", "rounds"),
        (REPLACE + 'choice = "near"\n', "'near' is unknown", "one of nearest, gate, mask, clip"),
        (REPLACE + 'choices = "gate"\n', "no key 'choices'", "did you mean 'choice'?"),
        (REPLACE + 'registers = "rows.pt"\n', "rows.pt", "registers"),
        (REPLACE + 'registers = "rows.safetensors"\n', "no such file", "relative to the TOML file"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_hint(tmp_path: Path, text: str, message: str, hint: str) -> None:
    path = _file(tmp_path, text)
    with pytest.raises(ExportError) as caught:
        read_dsr_file(path)
    assert message in caught.value.message and str(tmp_path) in caught.value.message
    assert caught.value.hint is not None and hint in caught.value.hint


@pytest.mark.parametrize(
    ("neurons", "message"),
    [
        ("[1, 2]", "not a table"),
        ('{"a": [1]}', "'a' is no layer"),
        ('{"-1": [1]}', "'-1' is no layer"),
        ('{"1": 4}', "not a list"),
        ('{"1": [-4]}', "layer 1 lists -4"),
        ('{"1": [1.0]}', "layer 1 lists 1.0"),
        ('{"1": [true]}', "layer 1 lists True"),
        ('{"1": [1], "1": [2]}', "listed twice"),
        ('{"1": [1], "01": [2]}', "a layer twice"),
        ('{"1": []}', "no neuron"),
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
    ],
)
def test_malformed_neuron_tables_are_refused(tmp_path: Path, neurons: str, message: str) -> None:
    with pytest.raises(ExportError) as caught:
        read_dsr_file(_file(tmp_path, TEST_TIME, neurons))
    assert message in caught.value.message and caught.value.hint


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no such file"):
        read_dsr_file(tmp_path / "none.toml")


def test_the_digest_covers_every_file_named(tmp_path: Path) -> None:
    rows = tmp_path / "rows.safetensors"
    rows.write_bytes(b"one")
    path = _file(tmp_path, TEST_TIME + REPLACE + 'registers = "rows.safetensors"\n')
    digests = [dsr_digest(path)]
    rows.write_bytes(b"two")
    digests.append(dsr_digest(path))
    (tmp_path / "neurons.json").write_text('{"3": [7]}')
    digests.append(dsr_digest(path))
    path.write_text(path.read_text() + "rounds = 2\n")
    digests.append(dsr_digest(path))
    assert len(set(digests)) == len(digests)


def test_the_digest_ignores_where_the_files_lie(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert dsr_digest(_file(tmp_path / "a", TEST_TIME)) == dsr_digest(_file(tmp_path / "b", TEST_TIME))


def test_reading_needs_no_torch(tmp_path: Path) -> None:
    path = _file(tmp_path, TEST_TIME)
    code = (
        "import sys, json; from dsr_export.declarations.dsr_file import dsr_digest; from pathlib import Path\n"
        f"dsr_digest(Path({str(path)!r})); print(json.dumps([m for m in ('torch', 'onnx') if m in sys.modules]))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == []


class TestDeclaration:
    """The file as `load_subject` takes it."""

    def test_a_denoiser_gets_what_is_declared(self, tmp_path: Path) -> None:
        from dsr_export.families import load_subject

        text = "[denoiser]\nregisters = 4\nstart = 0\n" + REPLACE.replace("[4, 8]", "[1, 2]")
        declared = load_subject("rae-dit", random_weights=0, dsr=_file(tmp_path, text), **SIZES)
        assert declared.dsr == read_dsr_file(tmp_path / "dsr.toml").spec

    def test_what_is_left_out_stays_the_models(self, tmp_path: Path) -> None:
        from dsr_export.families import load_subject

        path = _file(tmp_path, REPLACE.replace("[4, 8]", "[1]"))
        declared = load_subject("rae-dit", random_weights=0, registers=4, dsr=path, **SIZES)
        spec = declared.dsr.denoiser
        assert (spec.kind, spec.registers, spec.start, len(spec.replace)) == ("diffusion", 4, 1, 1)

    @pytest.mark.parametrize(
        ("model", "text", "options", "message"),
        [
            ("rae-dit", TEST_TIME, {}, "declares [encoder], and rae-dit is no encoder"),
            ("rae-decoder", TEST_TIME, {}, "declares [encoder], and rae-decoder is no encoder"),
            ("siglip", REPLACE, {}, "declares [denoiser], and siglip is no denoiser"),
            ("rae-dit", "[denoiser]\nregisters = 4\n", {"registers": 5}, "--registers 5"),
            ("rae-dit", REPLACE, {"replace": []}, "given twice"),
        ],
    )
    def test_contradictions_are_refused(
        self, tmp_path: Path, model: str, text: str, options: dict[str, int], message: str
    ) -> None:
        from dsr_export.families import load_subject

        with pytest.raises(ExportError) as caught:
            load_subject(model, random_weights=0, dsr=_file(tmp_path, text), **options)  # type: ignore[arg-type]
        assert message in caught.value.message and caught.value.hint

    def test_it_is_part_of_the_cache_key(self, tmp_path: Path) -> None:
        from dsr_export.families import FamilyRequest, subject_key

        path = _file(tmp_path, TEST_TIME)
        plain = FamilyRequest(model="siglip", random_weights=0)
        declared = dataclasses.replace(plain, dsr=path)
        keys = [subject_key(plain), subject_key(declared)]
        (tmp_path / "neurons.json").write_text('{"3": [7]}')
        keys.append(subject_key(declared))
        assert len({json.dumps(key, sort_keys=True) for key in keys}) == 3


def test_a_manifest_names_files_of_registers_and_no_folders(tmp_path: Path) -> None:
    (tmp_path / "mine.safetensors").write_bytes(b"")
    text = '[[denoiser.replace]]\nlayers = [1]\nrule = "median"\nthreshold = 4.0\nregisters = "mine.safetensors"\n'
    (tmp_path / "dsr.toml").write_text(text)
    plain = read_dsr_file(tmp_path / "dsr.toml").spec.as_dict()
    assert plain["denoiser"]["replace"][0]["registers"] == "mine.safetensors"
