from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from dsr_export.bundle.manifest import Manifest
from dsr_export.bundle.reader import Bundle
from dsr_export.bundle.writer import write_bundle
from dsr_export.errors import ExportError
from tests.bundle.opening import refused
from tests.bundle.sample_files import external_model, model_bytes

FILES = ["engines/rtx.plan", "golden.npz", "manifest.json", "model.onnx", "model.onnx.data", "report.json"]
Build = Callable[..., Path]


@pytest.fixture
def build(tmp_path: Path, manifest: Manifest, contents: dict[str, Any]) -> Build:
    """Writes a bundle with some contents changed: validly listed, as an attacker would."""

    def write(**changed: bytes) -> Path:
        return write_bundle(tmp_path / "changed.dsr", manifest, {**contents, **changed})

    return write


def test_an_intact_bundle_opens(bundle: Path, manifest: Manifest) -> None:
    opened = Bundle.open(str(bundle))
    assert opened.path == bundle
    assert sorted([*opened.manifest.files, "manifest.json"]) == FILES
    assert opened.manifest.targets == manifest.targets


def test_opening_writes_nothing(bundle: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in [bundle, *bundle.rglob("*")]}
    Bundle.open(bundle).golden()
    assert {path: path.stat().st_mtime_ns for path in [bundle, *bundle.rglob("*")]} == before


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("where", [0.0, 0.5, 1.0])
def test_one_flipped_byte_is_found_and_named(bundle: Path, name: str, where: float) -> None:
    data = bytearray((bundle / name).read_bytes())
    data[int(where * (len(data) - 1))] ^= 0x10
    (bundle / name).write_bytes(data)
    error = refused(bundle, name)
    assert str(bundle / name) in error.message


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("change", [-1, 1])
def test_another_length_is_found_and_named(bundle: Path, name: str, change: int) -> None:
    data = (bundle / name).read_bytes()
    (bundle / name).write_bytes(data[:change] if change < 0 else data + b"\0")
    message = refused(bundle, name).message
    if name != "manifest.json":
        assert f"has {len(data) + change} bytes, the manifest says {len(data)}" in message


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    refused(bundle, f"has no {name}" if name == "manifest.json" else f"{name} is missing")


@pytest.mark.parametrize("name", FILES)
def test_a_link_is_refused_even_to_the_same_bytes(tmp_path: Path, bundle: Path, name: str) -> None:
    (bundle / name).rename(tmp_path / "elsewhere")
    (bundle / name).symlink_to(tmp_path / "elsewhere")
    refused(bundle, f"{name} is (a link|no regular file)")


def test_a_linked_folder_is_refused(tmp_path: Path, bundle: Path) -> None:
    (bundle / "engines").rename(tmp_path / "engines")
    (bundle / "engines").symlink_to(tmp_path / "engines")
    refused(bundle, "engines is a link")


@pytest.mark.parametrize("name", FILES)
def test_a_folder_or_pipe_in_place_of_a_file_is_refused(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    (bundle / name).mkdir()
    refused(bundle, name)
    (bundle / name).rmdir()
    os.mkfifo(bundle / name)  # reading it would block for ever
    refused(bundle, f"{name} is no regular file")


@pytest.mark.parametrize("name", ["extra.so", ".hidden", "engines/evil.plan", "manifest.json.bak", "engines/.x"])
def test_an_unlisted_file_is_named(bundle: Path, name: str) -> None:
    (bundle / name).write_bytes(b"")
    refused(bundle, f"{name} is not listed in manifest.json")


@pytest.mark.parametrize("name", ["more", "engines/more"])
def test_an_unlisted_folder_is_named(bundle: Path, name: str) -> None:
    (bundle / name).mkdir()
    refused(bundle, f"{name} is not listed")


def test_a_dangling_link_is_refused(bundle: Path) -> None:
    (bundle / "x").symlink_to("nowhere")
    refused(bundle, "x is a link")


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    refused(tmp_path / "absent", "does not exist")
    refused(tmp_path / "file", "is a file, expected a bundle folder")
    refused(tmp_path / "folder", "is no bundle: it has no manifest.json")


def test_a_bundle_without_a_model_is_refused(tmp_path: Path, manifest: Manifest, contents: dict[str, Any]) -> None:
    del contents["model.onnx"]
    refused(write_bundle(tmp_path / "x.dsr", manifest, contents), "does not list model.onnx")


@pytest.mark.parametrize(
    "location", ["../secret", "/etc/passwd", "engines/rtx.plan", "", "absent.data", ".", "./model.onnx.data", "a\0b"]
)
def test_external_data_outside_the_listed_files_is_refused(build: Build, location: str) -> None:
    bundle = build(**{"model.onnx": external_model(location)})
    refused(bundle, "tensor 'w' takes its data from .*, no file of the bundle")


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ({"offset": "1"}, "bytes 1 to 4097 of model.onnx.data, which has 4096"),
        ({"offset": "4097", "length": "0"}, "which has 4096 bytes"),
        ({"length": "99999999999"}, "which has 4096 bytes"),
        ({"offset": "-1"}, "offset or length '-1'"),
        ({"length": "9" * 30}, "offset or length"),
        ({"length": "0x10"}, "offset or length '0x10'"),
        ({"length": ""}, "offset or length ''"),
        ({"length": "\uff14"}, "offset or length"),
        ({"basepath": "/etc"}, "unknown or repeated"),
    ],
)
def test_external_data_beyond_its_file_is_refused(build: Build, entries: dict[str, str], problem: str) -> None:
    refused(build(**{"model.onnx": external_model("model.onnx.data", **entries)}), problem)


def test_a_repeated_location_is_refused(build: Build) -> None:
    model = onnx.load_from_string(external_model("model.onnx.data"))
    model.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")
    refused(build(**{"model.onnx": model.SerializeToString()}), "unknown or repeated")


def test_a_location_that_is_no_text_is_refused(build: Build) -> None:
    data = external_model("XXXX").replace(b"XXXX", b"\xff\xfeXX")
    refused(build(**{"model.onnx": data}), "no file of the bundle")


def outside() -> TensorProto:
    tensor = TensorProto(name="hidden", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


def in_constant() -> onnx.ModelProto:
    constant = helper.make_node("Constant", [], ["c"], name="c", value=outside())
    return onnx.load_from_string(model_bytes([constant], []))


def in_subgraph() -> onnx.ModelProto:
    inner = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "inner", [], [], initializer=[outside()])
    node = helper.make_node("If", ["x"], ["y"], name="if", then_branch=inner, else_branch=inner)
    return onnx.load_from_string(model_bytes([node], []))


def in_sparse_initializer() -> onnx.ModelProto:
    model = onnx.load_from_string(model_bytes([helper.make_node("Relu", ["x"], ["out"], name="r")], []))
    model.graph.sparse_initializer.add(values=outside(), indices=TensorProto(name="i"), dims=[1])
    return model


def in_function() -> onnx.ModelProto:
    model = onnx.load_from_string(model_bytes([helper.make_node("Relu", ["x"], ["out"], name="r")], []))
    constant = helper.make_node("Constant", [], ["c"], name="c", value=outside())
    model.functions.append(helper.make_function("", "F", [], ["c"], [constant], [helper.make_opsetid("", 20)]))
    return model


def in_training_graph() -> onnx.ModelProto:
    model = onnx.load_from_string(model_bytes([helper.make_node("Relu", ["x"], ["out"], name="r")], []))
    model.training_info.add().algorithm.initializer.append(outside())
    return model


@pytest.mark.parametrize("model", [in_constant, in_subgraph, in_sparse_initializer, in_function, in_training_graph])
def test_external_data_is_found_wherever_it_hides(build: Build, model: Callable[[], onnx.ModelProto]) -> None:
    refused(build(**{"model.onnx": model().SerializeToString()}), "tensor 'hidden' takes its data from '/etc/passwd'")


@pytest.mark.parametrize(("op", "domain"), [("EPContext", "com.microsoft"), ("Evil", "my.plugins")])
def test_operators_of_other_domains_are_refused(build: Build, op: str, domain: str) -> None:
    node = helper.make_node(op, ["x"], ["out"], name="n", domain=domain)
    refused(build(**{"model.onnx": model_bytes([node], [])}), f"node 'n' is '{domain}.{op}', no standard op")


@pytest.mark.parametrize("data", [b"", b"\xff\xff\xff\xffgarbage"])
def test_a_model_that_is_no_onnx_is_refused(build: Build, data: bytes) -> None:
    with pytest.raises(ExportError, match=r"model\.onnx is (no ONNX model|not a readable ONNX)"):
        Bundle.open(build(**{"model.onnx": data}))


def test_files_are_found_by_name(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    assert opened.file("engines/rtx.plan") == bundle / "engines" / "rtx.plan"
    for name in ("../digits.dsr/model.onnx", "/etc/passwd", "manifest.json"):
        with pytest.raises(ExportError, match="has no file"):
            opened.file(name)
    with pytest.raises(ExportError, match="has no file") as caught:
        opened.file("golden.npy")
    assert caught.value.hint == "did you mean 'golden.npz'?"


def test_engines_are_found_by_target(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    assert opened.engine("rtx") == bundle / "engines" / "rtx.plan"
    assert opened.engine("onnxruntime") is None
    with pytest.raises(ExportError, match="was not built for 'trt10'") as caught:
        opened.engine("trt10")
    assert "rtx, onnxruntime" in str(caught.value.hint)


def test_the_report_is_read(bundle: Path) -> None:
    assert Bundle.open(bundle).report() == {"passed": True}


@pytest.mark.parametrize("data", [b"[]", b"{", b'{"a":NaN}', b'{"a":1,"a":2}'])
def test_a_bad_report_is_refused(build: Build, data: bytes) -> None:
    opened = Bundle.open(build(**{"report.json": data}))
    with pytest.raises(ExportError, match=r"report\.json"):
        opened.report()


def test_golden_arrays_are_read(bundle: Path) -> None:
    arrays = Bundle.open(bundle).golden()
    assert sorted(arrays) == ["batch1/in/x", "batch1/out/out"]
    assert arrays["batch1/in/x"].dtype == np.float32
    assert np.array_equal(arrays["batch1/in/x"], np.ones((1, 4)))
    assert arrays["batch1/out/out"].shape == (1, 0)
    assert all(array.flags.writeable for array in arrays.values())


def test_golden_arrays_are_those_that_numpy_reads(build: Build, rng: np.random.Generator) -> None:
    written: dict[str, Any] = {
        "scalar": np.float32(3.5),
        "fortran": np.asfortranarray(rng.standard_normal((3, 4, 5))),
        "labels": np.arange(7, dtype=np.int64),
        "flags": np.array([[True], [False]]),
        "half": rng.standard_normal((2, 2)).astype(np.float16),
        "big_endian": np.arange(3, dtype=">f4"),
    }
    stream = io.BytesIO()
    np.savez(stream, **written)
    read = Bundle.open(build(**{"golden.npz": stream.getvalue()})).golden()
    assert read.keys() == written.keys()
    for name, array in written.items():
        np.testing.assert_array_equal(read[name], array, strict=True)


def packed(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


def npy(descr: str, shape: str, data: bytes = b"", version: bytes = b"\1\0") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header + data


def with_objects() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, a=np.array([{"a": 1}], dtype=object))
    return stream.getvalue()


BAD_GOLDEN = {
    "no zip": (b"not a zip", "no readable npz"),
    "empty": (b"", "no readable npz"),
    "truncated": (packed({"a.npy": npy("'<f4'", "(4,)", b"\0" * 16)})[:-30], "no readable npz"),
    "objects": (with_objects(), "has the type object"),
    "strings": (packed({"a.npy": npy("'<U4'", "(1,)", b"\0" * 16)}), "has the type"),
    "no array": (packed({"a.npy": b"hello"}), "no readable npz"),
    "another kind of file": (packed({"a.txt": b"hello"}), "'a.txt', which is no array"),
    "shape too large": (packed({"a.npy": npy("'<f4'", "(1000000000000,)", b"\0" * 16)}), "declares 4000000000000"),
    "shape overflows": (packed({"a.npy": npy("'<f4'", f"({2**63}, {2**63})", b"\0")}), "declares"),
    "shape negative": (packed({"a.npy": npy("'<f4'", "(-2, -2)", b"\0" * 16)}), "no readable npz"),
    "too much data": (packed({"a.npy": npy("'<f4'", "(3,)", b"\0" * 16)}), "not hold exactly these"),
    "too little data": (packed({"a.npy": npy("'<f4'", "(5,)", b"\0" * 16)}), "not hold exactly these"),
    "header is code": (packed({"a.npy": npy("__import__('os').abort()", "(1,)")}), "no readable npz"),
    "header nests": (packed({"a.npy": npy("(" * 60, "(1,)")}), "no readable npz"),
    "unknown version": (packed({"a.npy": npy("'<f4'", "()", b"\0" * 4, b"\x09\0")}), "npy version"),
    "other compression": (packed({"a.npy": npy("'<f4'", "()", b"\0" * 4)}, zipfile.ZIP_LZMA), "packed in a way"),
}


@pytest.mark.parametrize("kind", BAD_GOLDEN)
def test_bad_golden_files_are_refused(build: Build, kind: str) -> None:
    data, problem = BAD_GOLDEN[kind]
    opened = Bundle.open(build(**{"golden.npz": data}))
    with pytest.raises(ExportError, match=problem) as caught:
        opened.golden()
    assert "golden.npz" in caught.value.message


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_arrays_of_one_name_are_refused(build: Build) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for _ in range(2):
            archive.writestr("a.npy", npy("'<f4'", "()", b"\0" * 4))
    with pytest.raises(ExportError, match="two of one name"):
        Bundle.open(build(**{"golden.npz": stream.getvalue()})).golden()


def test_a_zip_bomb_is_refused_before_it_unpacks(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    data = packed({f"{i}.npy": b"\0" * (1 << 20) for i in range(4)})
    assert len(data) < 10_000
    opened = Bundle.open(build(**{"golden.npz": data}))
    monkeypatch.setattr("dsr_export.storage.npz_file.LARGEST_TOTAL", 3 << 20)
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("it began to unpack"))
    with pytest.raises(ExportError, match="unpacks to 4194304 bytes, more than the 3145728 allowed"):
        opened.golden()


def test_a_damaged_member_is_found_by_its_checksum(build: Build) -> None:
    data = bytearray(packed({"a.npy": npy("'<f4'", "(4,)", b"\1" * 16)}, zipfile.ZIP_STORED))
    data[data.index(b"\1" * 16)] ^= 1
    with pytest.raises(ExportError, match="Bad CRC"):
        Bundle.open(build(**{"golden.npz": bytes(data)})).golden()


HOSTILE = {
    "its size": ("c = ConstantOfShape(big) m = ReduceMean<keepdims=0>(c) out = Add(x, m)", "at most 67,108,864"),
    "a range": ("r = Range(z, far, one) c = Cast<to=1>(r) m = ReduceMean<keepdims=0>(c) out = Add(x, m)", "at most 67"),
    "no order": ("out = Add(x, m) m = Relu(x)", "which nothing before it makes"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_model_that_asks_for_too_much_is_refused_before_it_runs(build: Build, case: str) -> None:
    body, said = HOSTILE[case]
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 20]> g (float[N,4] x) => (float[N,4] out) <int64[1] big = {{2000000000}},'
        f" int64 z = {{0}}, int64 far = {{2000000000}}, int64 one = {{1}}> {{ {body} }}"
    )
    refused(build(**{"model.onnx": model.SerializeToString()}), said)


def test_a_model_that_would_never_end_is_refused(build: Build) -> None:
    value = helper.make_tensor_value_info("v", TensorProto.FLOAT, None)
    more = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    count = helper.make_tensor_value_info("i", TensorProto.INT64, [])
    body = helper.make_graph([helper.make_node("Identity", ["v"], ["w"])], "b", [count, more, value], [more, value])
    loop = helper.make_node("Loop", ["", "", "x"], ["out"], name="l", body=body)
    refused(build(**{"model.onnx": model_bytes([loop], [])}), r"Loop \(node 'l'\) may run for ever")


def test_functions_that_multiply_are_counted_before_they_are_inlined(build: Build) -> None:
    model = onnx.load_from_string(model_bytes([helper.make_node("F0", ["x"], ["out"], name="f")], []))
    for i in range(30):
        called = f"F{i + 1}" if i < 29 else "Relu"
        nodes = [helper.make_node(called, ["a"], ["c"]), helper.make_node(called, ["c"], ["b"])]
        model.functions.append(helper.make_function("", f"F{i}", ["a"], ["b"], nodes, [helper.make_opsetid("", 20)]))
    refused(build(**{"model.onnx": model.SerializeToString()}), "nodes, and at most 200,000 are taken")
