"""Bundles inside a bundle: whole, verified with it, and nothing but what the manifest around them says."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dsr_export.bundle.components import component_contents, component_entry, role_of
from dsr_export.bundle.manifest import Manifest
from dsr_export.bundle.reader import Bundle
from dsr_export.bundle.writer import write_bundle
from dsr_export.errors import ExportError
from dsr_export.storage.canonical import parse_sealed, sealed_bytes
from graphs.artifacts import TensorSpec
from graphs.digests import files_digest
from tests.bundle.opening import refused
from tests.bundle.sample_files import external_model, model_bytes

Contents = dict[str, Path | bytes]
DECODER, ENCODER = "components/decoder", "components/encoder"
NESTED = ["manifest.json", "model.onnx", "model.onnx.data", "engines/rtx.plan", "golden.npz", "report.json"]


def _spec(name: str) -> tuple[TensorSpec, ...]:
    return (TensorSpec(name=name, dtype="float32", shape=("batch", 1024)),)


def named(manifest: Manifest, takes: str, gives: str) -> Manifest:
    """The manifest of a model that is no denoiser."""
    return replace(manifest, inputs=_spec(takes), outputs=_spec(gives), sampler=None, name=gives, build_key="d" * 64)


@pytest.fixture
def decoder(tmp_path: Path, manifest: Manifest, contents: Contents) -> Bundle:
    return Bundle.open(write_bundle(tmp_path / "decoder.dsr", named(manifest, "z", "image"), contents))


@pytest.fixture
def encoder(tmp_path: Path, manifest: Manifest, contents: Contents) -> Bundle:
    return Bundle.open(write_bundle(tmp_path / "encoder.dsr", named(manifest, "image", "tokens"), contents))


Compose = Callable[..., Path]


@pytest.fixture
def compose(tmp_path: Path, manifest: Manifest, contents: Contents) -> Compose:
    """Writes a bundle around others."""

    def write(**components: Bundle) -> Path:
        entries = {role: component_entry(role, each.manifest) for role, each in components.items()}
        inside = {
            k: v for role, b in components.items() for k, v in component_contents(role, b.path, b.manifest).items()
        }
        return write_bundle(tmp_path / "pipe.dsr", replace(manifest, components=entries), {**contents, **inside})

    return write


def resealed(pipe: Path, edit: Callable[[dict[str, Any]], object] = lambda value: None) -> None:
    """Lists every file in the outer manifest as it lies there now, and applies `edit`: what an attacker would do."""
    value = parse_sealed((pipe / "manifest.json").read_bytes(), where="m")
    files = [path for path in pipe.rglob("*") if path.is_file() and path != pipe / "manifest.json"]
    value["files"] = {
        path.relative_to(pipe).as_posix(): {"sha256": files_digest([path]), "size": path.stat().st_size}
        for path in files
    }
    edit(value)
    (pipe / "manifest.json").write_bytes(sealed_bytes(value))


def test_components_are_bundles_that_open_with_the_one_around_them(
    compose: Compose, decoder: Bundle, encoder: Bundle
) -> None:
    opened = Bundle.open(compose(decoder=decoder, encoder=encoder))
    assert set(opened.components) == {"decoder", "encoder"}
    assert opened.component("decoder").path == opened.path / DECODER
    assert opened.component("encoder").manifest == encoder.manifest
    assert Bundle.open(opened.path / DECODER).manifest == decoder.manifest
    assert opened.component("decoder").golden().keys() == decoder.golden().keys()
    assert Manifest.from_bytes((opened.path / "manifest.json").read_bytes(), where="m") == opened.manifest


def test_files_are_copied_and_never_linked(compose: Compose, decoder: Bundle) -> None:
    pipe = compose(decoder=decoder)
    for name in NESTED:
        copy = pipe / DECODER / name
        assert copy.read_bytes() == (decoder.path / name).read_bytes()
        assert not copy.is_symlink() and not copy.samefile(decoder.path / name)


def test_a_bundle_of_one_model_is_written_as_before(bundle: Path) -> None:
    assert b'"components"' not in (bundle / "manifest.json").read_bytes()
    assert Bundle.open(bundle).components == {}
    with pytest.raises(ExportError, match="has no component 'decoder'") as caught:
        Bundle.open(bundle).component("decoder")
    assert "--component" in str(caught.value.hint)


def test_a_misspelt_role_gets_a_suggestion(compose: Compose, decoder: Bundle) -> None:
    with pytest.raises(ExportError, match="no component 'decodr'") as caught:
        Bundle.open(compose(decoder=decoder)).component("decodr")
    assert "did you mean 'decoder'?" in str(caught.value.hint)


# -- one byte, one file, one link --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NESTED)
@pytest.mark.parametrize("where", [0.0, 0.5, 1.0])
def test_one_flipped_byte_of_a_component_is_found_and_named(
    compose: Compose, decoder: Bundle, name: str, where: float
) -> None:
    path = compose(decoder=decoder) / DECODER / name
    data = bytearray(path.read_bytes())
    data[int(where * (len(data) - 1))] ^= 0x10
    path.write_bytes(data)
    assert f"{DECODER}/{name}" in refused(path.parents[len(Path(name).parts) + 1], "was changed").message


@pytest.mark.parametrize("name", NESTED)
def test_a_missing_file_of_a_component_is_named(compose: Compose, decoder: Bundle, name: str) -> None:
    pipe = compose(decoder=decoder)
    (pipe / DECODER / name).unlink()
    refused(pipe, f"{DECODER}/{name} is missing")


@pytest.mark.parametrize("name", ["evil.so", "components/decoder/evil.so", "components/evil", "components/decoder/.x"])
def test_an_unlisted_file_beside_or_in_a_component_is_named(compose: Compose, decoder: Bundle, name: str) -> None:
    pipe = compose(decoder=decoder)
    (pipe / name).write_bytes(b"")
    refused(pipe, f"{name} is not listed in manifest.json")


@pytest.mark.parametrize("name", ["components", DECODER, f"{DECODER}/engines", f"{DECODER}/golden.npz"])
def test_a_link_in_place_of_anything_is_refused(tmp_path: Path, compose: Compose, decoder: Bundle, name: str) -> None:
    pipe = compose(decoder=decoder)
    (pipe / name).rename(tmp_path / "elsewhere")
    (pipe / name).symlink_to(tmp_path / "elsewhere")
    refused(pipe, f"{name} is (a link|no regular file)")


def test_a_pipe_in_place_of_the_nested_manifest_does_not_block(compose: Compose, decoder: Bundle) -> None:
    pipe = compose(decoder=decoder)
    (pipe / DECODER / "manifest.json").unlink()
    os.mkfifo(pipe / DECODER / "manifest.json")
    refused(pipe, "manifest.json is no regular file")


# -- validly listed, and yet not what it was ---------------------------------------------------------------------


def test_resealing_alone_changes_nothing(compose: Compose, decoder: Bundle) -> None:
    pipe = compose(decoder=decoder)
    before = (pipe / "manifest.json").read_bytes()
    resealed(pipe)
    assert (pipe / "manifest.json").read_bytes() == before


def test_a_file_that_the_nested_manifest_does_not_vouch_for_is_named(compose: Compose, decoder: Bundle) -> None:
    pipe = compose(decoder=decoder)
    (pipe / DECODER / "report.json").write_bytes(b'{"passed": false}')
    resealed(pipe)
    refused(pipe, f"{DECODER}/report.json is not the file that .*{DECODER}/manifest.json lists")


def test_a_file_that_the_nested_manifest_does_not_list_is_named(compose: Compose, decoder: Bundle) -> None:
    pipe = compose(decoder=decoder)
    (pipe / DECODER / "extra.bin").write_bytes(b"")
    resealed(pipe)
    refused(pipe, f"{DECODER}/extra.bin is not the file")


def test_another_bundle_in_place_of_a_component_is_refused(
    tmp_path: Path, compose: Compose, decoder: Bundle, contents: Contents
) -> None:
    """The same name and key, other contents: what building the decoder anew, with other tools, may give."""
    other = write_bundle(tmp_path / "other.dsr", decoder.manifest, {**contents, "report.json": b"{}"})
    pipe = compose(decoder=decoder)
    shutil.rmtree(pipe / DECODER)
    shutil.copytree(other, pipe / DECODER)
    resealed(pipe)
    message = refused(pipe, f"{DECODER}/manifest.json is of another bundle").message
    assert decoder.manifest.digest in message and Bundle.open(other).manifest.digest in message


@pytest.mark.parametrize("key", ["name", "build_key"])
def test_what_the_outer_manifest_says_of_a_component_must_be_so(compose: Compose, decoder: Bundle, key: str) -> None:
    pipe = compose(decoder=decoder)
    resealed(pipe, lambda value: value["components"]["decoder"].update({key: "x"}))
    refused(pipe, "is of another bundle")


def test_a_component_of_another_role_is_refused(compose: Compose, encoder: Bundle) -> None:
    with pytest.raises(ExportError, match="is no decoder"):
        compose(decoder=encoder)


def test_a_component_that_changed_since_it_was_opened_never_ships(compose: Compose, decoder: Bundle) -> None:
    (decoder.path / "golden.npz").write_bytes(b"other")
    with pytest.raises(ExportError, match="golden.npz is damaged"):
        compose(decoder=decoder)
    assert sorted(path.name for path in decoder.path.parent.iterdir()) == ["decoder.dsr"]


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        (external_model("../../model.onnx.data"), "no file of the bundle"),
        (external_model("golden.npz"), "which has"),
        (model_bytes([], []), "without nodes"),
    ],
)
def test_the_graph_of_a_component_is_checked_too(
    tmp_path: Path, manifest: Manifest, contents: Contents, compose: Compose, model: bytes, problem: str
) -> None:
    inner = named(manifest, "z", "image")
    path = write_bundle(tmp_path / "bad.dsr", inner, {**contents, "model.onnx": model})
    read = Manifest.from_bytes((path / "manifest.json").read_bytes(), where="m")
    message = refused(compose(decoder=Bundle(path, read)), problem).message
    assert f"{DECODER}/model.onnx" in message


def test_the_outer_graph_cannot_take_a_components_weights(
    tmp_path: Path, manifest: Manifest, contents: Contents, decoder: Bundle
) -> None:
    inside = component_contents("decoder", decoder.path, decoder.manifest)
    outer = replace(manifest, components={"decoder": component_entry("decoder", decoder.manifest)})
    graph = external_model(f"{DECODER}/model.onnx.data")
    pipe = write_bundle(tmp_path / "pipe.dsr", outer, {**contents, **inside, "model.onnx": graph})
    refused(pipe, "no file of the bundle")


def test_a_pipeline_in_a_pipeline_is_refused(compose: Compose, manifest: Manifest, decoder: Bundle) -> None:
    around = compose(decoder=decoder)
    with pytest.raises(ExportError, match="pipe.dsr holds components itself") as caught:
        role_of(Bundle.open(around).manifest, where=around)
    assert "the bundles it was made of" in str(caught.value.hint)
    nested = replace(decoder.manifest, components=Bundle.open(around).manifest.components)
    (decoder.path / "components").mkdir()
    shutil.copytree(around / DECODER, decoder.path / DECODER)
    inside = component_contents("decoder", around / DECODER, Bundle.open(around).component("decoder").manifest)
    written = write_bundle(decoder.path.with_name("deep.dsr"), nested, {**_files(decoder), **inside})
    shutil.rmtree(around)
    with pytest.raises(ExportError, match="holds components itself"):
        compose(decoder=Bundle(written, Manifest.from_bytes((written / "manifest.json").read_bytes(), where="m")))


def _files(bundle: Bundle) -> Contents:
    return {name: bundle.path / name for name in bundle.manifest.files}


# -- roles ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("takes", "gives", "role"), [("z", "image", "decoder"), ("image", "tokens", "encoder"), ("image", "z", "encoder")]
)
def test_roles_are_told_by_inputs_and_outputs(manifest: Manifest, takes: str, gives: str, role: str) -> None:
    assert role_of(named(manifest, takes, gives), where="b") == role


@pytest.mark.parametrize(("takes", "gives"), [("x", "out"), ("z", "out"), ("image", "image"), ("tokens", "image")])
def test_other_models_have_no_role(manifest: Manifest, takes: str, gives: str) -> None:
    with pytest.raises(ExportError, match="b is a denoiser" if takes == "x" else f"b takes {takes} and gives {gives}"):
        role_of(named(manifest, takes, gives), where="b")


def test_whatever_is_sampled_is_a_denoiser(manifest: Manifest) -> None:
    sampled = replace(named(manifest, "z", "image"), sampler=manifest.sampler)
    with pytest.raises(ExportError, match="b is a denoiser"):
        role_of(sampled, where="b")


# -- the manifest ---------------------------------------------------------------------------------------------------

ENTRY = {"path": DECODER, "name": "image", "build_key": "k", "digest": "0" * 64}
FILE = {"sha256": "0" * 64, "size": 1}


def _manifest_with(manifest: Manifest, components: object, *files: str) -> bytes:
    value = parse_sealed(replace(manifest, targets=manifest.targets[1:]).to_bytes(), where="m")
    return sealed_bytes({**value, "components": components, "files": dict.fromkeys(files, FILE)})


def test_an_entry_is_read_back(manifest: Manifest) -> None:
    data = _manifest_with(manifest, {"decoder": ENTRY}, f"{DECODER}/manifest.json")
    read = Manifest.from_bytes(data, where="m")
    assert read.components["decoder"].digest == "0" * 64
    assert read.to_bytes() == data


@pytest.mark.parametrize(
    ("components", "files", "problem"),
    [
        ({}, (), "at least one component, or no such key"),
        (None, (), "m.components is None"),
        ([ENTRY], (), "expected an object"),
        ({"vocoder": ENTRY}, ("components/vocoder/manifest.json",), "only the roles decoder, encoder, text_encoder"),
        ({"Decoder": ENTRY}, (f"{DECODER}/manifest.json",), "only the roles"),
        ({"decoder": {**ENTRY, "path": "../decoder"}}, (f"{DECODER}/manifest.json",), "decoder.path is"),
        ({"decoder": {**ENTRY, "path": ENCODER}}, (f"{ENCODER}/manifest.json",), "decoder.path is"),
        ({"decoder": {**ENTRY, "path": 3}}, (f"{DECODER}/manifest.json",), "decoder.path is 3"),
        ({"decoder": ENTRY}, (f"{DECODER}/model.onnx",), "manifest.json among the files"),
        ({"decoder": {**ENTRY, "digest": "0" * 63}}, (f"{DECODER}/manifest.json",), "decoder.digest is"),
        ({"decoder": {**ENTRY, "name": ""}}, (f"{DECODER}/manifest.json",), "decoder.name is"),
        ({"decoder": {**ENTRY, "plugin": "x"}}, (f"{DECODER}/manifest.json",), "unknown key 'plugin'"),
        ({"decoder": {"path": DECODER}}, (f"{DECODER}/manifest.json",), "lacks the key"),
        ({"decoder": ENTRY}, (f"{DECODER}/manifest.json", f"{ENCODER}/x"), "only files of declared components"),
        ({"decoder": ENTRY}, (f"{DECODER}/manifest.json", "Components/decoder/x"), "only files of declared"),
        ({"decoder": ENTRY}, (f"{DECODER}/manifest.json", "components/decoder2/x"), "only files of declared"),
    ],
)
def test_bad_entries_are_refused_by_name(manifest: Manifest, components: object, files: Any, problem: str) -> None:
    with pytest.raises(ExportError, match=problem) as caught:
        Manifest.from_bytes(_manifest_with(manifest, components, *files), where="m")
    assert caught.value.hint


def test_files_of_undeclared_components_are_refused(manifest: Manifest) -> None:
    value = parse_sealed(replace(manifest, targets=manifest.targets[1:]).to_bytes(), where="m")
    data = sealed_bytes({**value, "files": {f"{DECODER}/manifest.json": FILE}})
    with pytest.raises(ExportError, match="only files of declared components"):
        Manifest.from_bytes(data, where="m")
