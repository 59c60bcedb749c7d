from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest

from dsr_export.bundle.manifest import FileEntry, Manifest
from dsr_export.errors import ExportError
from dsr_export.sampling import SamplerSpec
from dsr_export.storage.canonical import parse_sealed, sealed_bytes
from graphs.artifacts import TensorSpec

ENTRY = {"sha256": "0" * 64, "size": 1}
Value = dict[str, Any]


@pytest.fixture
def full(manifest: Manifest) -> Manifest:
    entry = FileEntry(sha256="0" * 64, size=1)
    return replace(manifest, files={"model.onnx": entry, "engines/rtx.plan": entry})


def edited(manifest: Manifest, edit: Callable[[Value], object]) -> bytes:
    """The manifest with `edit` applied, validly sealed again, as an attacker would."""
    value = parse_sealed(manifest.to_bytes(), where="m")
    edit(value)
    return sealed_bytes(value)


def test_what_is_written_is_read_back(full: Manifest) -> None:
    assert Manifest.from_bytes(full.to_bytes(), where="m") == full


def test_value_types_are_built(full: Manifest) -> None:
    read = Manifest.from_bytes(full.to_bytes(), where="m")
    assert read.input_specs() == (TensorSpec(name="x", dtype="float32", shape=("batch", 1024)),)
    assert read.outputs[0].name == "out"
    assert read.batch_range().sizes() == (1, 2, 8)
    assert read.sampler_spec() == SamplerSpec(num_steps=50, shift_dim=256, guidance=1.5, null_label=10)
    assert replace(read, sampler=None).sampler_spec() is None


@pytest.mark.parametrize(
    "sampler",
    [
        SamplerSpec(),
        SamplerSpec(prediction="velocity", path="reversed", noise_scale=2.0),
        SamplerSpec(prediction="epsilon", path="ddpm"),
    ],
    ids=lambda sampler: sampler.path,
)
def test_every_sampler_survives_the_round_trip(full: Manifest, sampler: SamplerSpec) -> None:
    written = replace(full, sampler=asdict(sampler)).to_bytes()
    assert Manifest.from_bytes(written, where="m").sampler_spec() == sampler


def test_no_sampler_survives_the_round_trip(full: Manifest) -> None:
    plain = replace(full, sampler=None)
    assert Manifest.from_bytes(plain.to_bytes(), where="m") == plain


def test_every_flipped_byte_is_found(full: Manifest) -> None:
    data = full.to_bytes()
    for index in range(len(data)):
        changed = data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]
        with pytest.raises(ExportError, match=r"^m\.json"):
            Manifest.from_bytes(changed, where="m.json")


def test_a_truncated_manifest_is_refused(full: Manifest) -> None:
    data = full.to_bytes()
    for length in (0, 1, len(data) // 2, len(data) - 1):
        with pytest.raises(ExportError, match="m"):
            Manifest.from_bytes(data[:length], where="m")


@pytest.mark.parametrize("version", [2, 0, -1, 1.0, "1", True, None])
def test_other_schema_versions_are_refused(full: Manifest, version: object) -> None:
    data = edited(full, lambda value: value.update(schema_version=version))
    with pytest.raises(ExportError, match="schema version .* reads 1") as caught:
        Manifest.from_bytes(data, where="m")
    assert "use the dsr-export that wrote the bundle" in str(caught.value.hint)


@pytest.mark.parametrize("key", sorted(["name", "model", "files", "targets", "batch", "sampler", "build_key"]))
def test_a_missing_key_is_named(full: Manifest, key: str) -> None:
    with pytest.raises(ExportError, match=f"m lacks the key '{key}'"):
        Manifest.from_bytes(edited(full, lambda value: value.pop(key)), where="m")


def test_an_unknown_key_is_named(full: Manifest) -> None:
    data = edited(full, lambda value: value.update(plugin="evil.so"))
    with pytest.raises(ExportError, match="unknown key 'plugin'"):
        Manifest.from_bytes(data, where="m")


def put(path: str, new: object) -> Callable[[Value], None]:
    """An edit that sets the value at `path`, as in `targets.0.engine`."""
    *above, last = path.split(".")

    def edit(value: Any) -> None:
        for part in above:
            value = value[int(part)] if isinstance(value, list) else value[part]
        value[int(last) if isinstance(value, list) else last] = new

    return edit


BAD = [
    ("name", 3),
    ("name", ""),
    ("name", "x" * 257),
    ("model", []),
    ("model.name", None),
    ("model.extra", 1),
    ("model.num_classes", -1),
    ("model.num_classes", 1.0),
    ("model.config", "x"),
    ("dsr", None),
    ("precision", "fp6"),
    ("precision", ["fp16"]),
    ("targets", []),
    ("targets", {}),
    ("targets.0", "rtx"),
    ("targets.0.name", "onnxruntime"),
    ("targets.0.version", None),
    ("targets.0.compute_capabilities", "8.6"),
    ("targets.0.compute_capabilities", [8.6]),
    ("targets.0.engine", "engines/other.plan"),
    ("targets.0.engine", "model.onnx"),
    ("targets.0.engine", 1),
    ("targets.0.facts", []),
    ("targets.0.plugins", []),
    ("inputs", []),
    ("inputs.0.dtype", "object"),
    ("inputs.0.dtype", "f4"),
    ("inputs.0.shape", 3),
    ("inputs.0.shape", [0]),
    ("inputs.0.shape", [-1]),
    ("inputs.0.shape", [True]),
    ("inputs.0.shape", [2**31]),
    ("inputs.0.shape", [""]),
    ("inputs.0.shape", [1] * 17),
    ("outputs", [{"name": "a", "dtype": "float32", "shape": []}] * 2),
    ("batch.min", 0),
    ("batch.min", True),
    ("batch.min", 3),
    ("batch.max", 1),
    ("batch.max", 2**60),
    ("batch.opt", "2"),
    ("sampler", 1),
    ("sampler.num_steps", 1),
    ("sampler.num_steps", 10**9),
    ("sampler.prediction", "noise"),
    ("sampler.shift_base", 0),
    ("sampler.guidance", "1"),
    ("sampler.guidance", True),
    ("sampler.null_label", -1),
    ("sampler.eta", 0.0),
    ("sampler.prediction", "epsilon"),
    ("sampler.path", "ddpm"),
    ("sampler.path", "cosine"),
    ("sampler.path", 1),
    ("sampler.noise_scale", 0.0),
    ("sampler.noise_scale", "1"),
    ("sampler.noise_scale", 1e300),
    ("sampler.guidance", -1e9),
    ("tolerances.cosine", "0.9"),
    ("tolerances.cosine", 1.5),
    ("tolerances.max_abs", -1.0),
    ("tolerances.max_abs", 1e300),
    ("tolerances.psnr_db", -1e9),
    ("tolerances.psnr_db", 1e308),
    ("tolerances.snr_db", -(2**63)),
    ("tolerances.cosine", True),
    ("tolerances.reason", 1),
    ("tools.numpy", 2),
    ("provenance", []),
    ("build_key", ""),
    ("range_audit", None),
    ("files", []),
    ("files.x", {**ENTRY, "size": -1}),
    ("files.x", {**ENTRY, "size": 2**42}),
    ("files.x", {**ENTRY, "size": 1.0}),
    ("files.x", {**ENTRY, "size": True}),
    ("files.x", {**ENTRY, "sha256": "0" * 63}),
    ("files.x", {**ENTRY, "sha256": "A" * 64}),
    ("files.x", {**ENTRY, "sha256": "0" * 64 + "\n"}),
    ("files.x", {**ENTRY, "mode": 7}),
    ("files.x", {"size": 1}),
    ("files.x", None),
]


@pytest.mark.parametrize(("path", "new"), BAD, ids=[f"{path}={str(new)[:30]!r}" for path, new in BAD])
def test_wrong_types_and_bounds_are_refused_by_name(full: Manifest, path: str, new: object) -> None:
    with pytest.raises(ExportError) as caught:
        Manifest.from_bytes(edited(full, put(path, new)), where="m")
    assert caught.value.hint
    assert f"m.{path.split('.')[0]}" in caught.value.message


def test_an_engine_that_is_not_listed_is_refused(full: Manifest) -> None:
    with pytest.raises(ExportError, match=r"m\.targets\[0\]\.engine is 'engines/rtx\.plan', expected null or a listed"):
        Manifest.from_bytes(edited(full, put("files", {})), where="m")


@pytest.mark.parametrize("largest", [("files.x", {**ENTRY, "size": 2**42 - 1}), ("batch.max", 2**16)])
def test_bounds_themselves_pass(full: Manifest, largest: tuple[str, object]) -> None:
    Manifest.from_bytes(edited(full, put(*largest)), where="m")


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a\\b", "a//b", "C:/x", "a\0b", "manifest.json", ".x"])
def test_unsafe_file_paths_are_refused(full: Manifest, path: str) -> None:
    def edit(value: Value) -> None:
        value["files"][path] = ENTRY

    with pytest.raises(ExportError, match=r"m\.files (names the file|lists)"):
        Manifest.from_bytes(edited(full, edit), where="m")


def test_the_digest_is_not_optional(full: Manifest) -> None:
    value = json.loads(full.to_bytes())
    del value["digest"]
    data = (json.dumps(value, sort_keys=True, separators=(",", ":")) + "\n").encode()
    with pytest.raises(ExportError, match="its digest is"):
        Manifest.from_bytes(data, where="m")


def test_values_that_json_lacks_are_refused_on_writing(full: Manifest) -> None:
    with pytest.raises(ExportError, match=r"range_audit\.peak is nan"):
        replace(full, range_audit={"peak": float("nan")}).to_bytes()
