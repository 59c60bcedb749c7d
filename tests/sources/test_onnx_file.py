"""MODEL as an ONNX file: what is accepted and brought into our form, and every way to be told no."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

from dsr_export.backends.onnxruntime import OnnxRuntimeRunner
from dsr_export.bundle.reader import Bundle
from dsr_export.config import ModelRequest
from dsr_export.errors import ExportError
from dsr_export.sources import find_source, load_subject
from dsr_export.subjects.onnx_graph import OnnxSubject
from graphs.foreign.brought_in import adapt, name_nodes, read_foreign
from graphs.lowering import lower
from tests.conftest import Cli
from tests.families.tiny_subjects import rae_dit

SIGNATURE = "(float[N,6,8] x, int64[N] y) => (float[N,6,8] out)"
BODY = (
    "e = Gather(table, y) u = Unsqueeze(e, one) h = MatMul(x, w) s = Add(h, u) "
    "mu = ReduceMean<axes=[-1], keepdims=1>(s) d = Sub(s, mu) p = Softmax(d) out = MatMul(p, w)"
)


def _model(signature: str = SIGNATURE, body: str = BODY, *, opset: int = 13, imports: str = "") -> onnx.ModelProto:
    """Opset 13: ReduceMean's axes became an input in 18, so converting is work."""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["":{opset}{imports}]> g {signature} {{ {body} }}')
    rng = np.random.default_rng(0)
    constants = {"table": (5, 8), "w": (8, 8)}
    arrays: dict[str, Any] = {k: rng.standard_normal(v).astype(np.float32) for k, v in constants.items()}
    arrays["one"] = np.array([1])
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(numpy_helper.from_array(a, k) for k, a in arrays.items() if k in used)
    return model


def _save(path: Path, model: onnx.ModelProto, **options: Any) -> Path:
    onnx.save(model, path, **options)
    return path


def _load(path: Path) -> OnnxSubject:
    subject = find_source(ModelRequest(model=str(path))).load()
    assert isinstance(subject, OnnxSubject)
    return subject


def test_a_file_becomes_a_subject(tmp_path: Path) -> None:
    subject = _load(_save(tmp_path / "my.onnx", _model()))
    assert [(s.name, s.dtype, s.shape) for s in subject.inputs] == [
        ("x", "float32", ("batch", 6, 8)),
        ("y", "int64", ("batch",)),
    ]
    assert [(s.name, s.shape) for s in subject.outputs] == [("out", ("batch", 6, 8))]
    assert set(subject.example(60, seed=0)["y"]) == {0, 1, 2, 3, 4}  # rows of the table they look up
    card = subject.card()
    assert (card.name, card.family, card.parameters, card.sampler) == ("my", "onnx", 5 * 8 + 8 * 8 + 1, None)


def test_the_traced_graph_is_in_our_form_and_computes_the_same(tmp_path: Path) -> None:
    model = _model()
    model.graph.node[2].name, model.graph.node[7].name = "/blocks.0/mlp/MatMul", "/blocks/0/mlp/MatMul"
    subject = _load(_save(tmp_path / "my.onnx", model))
    traced = subject.trace(tmp_path / "traced.onnx")
    written = onnx.load(traced.path)
    names = [node.name for node in written.graph.node]
    assert [entry.version for entry in written.opset_import] == [20]
    assert len(set(names)) == len(names)
    assert {"blocks.0.mlp/MatMul", "blocks.0.mlp/MatMul_1", "graph/Gather_0"} <= set(names)
    assert written.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    lowered, _ = lower(traced, tmp_path / "lowered.onnx")
    feeds = subject.example(3, seed=1)
    with subject.reference() as reference, OnnxRuntimeRunner(lowered.path, inputs=subject.inputs) as runner:
        np.testing.assert_allclose(runner.infer(feeds)["out"], reference.infer(feeds)["out"], rtol=1e-5, atol=1e-6)


def test_weights_that_an_old_file_lists_as_inputs_are_none(tmp_path: Path) -> None:
    model = _model()
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [8, 8]))
    subject = _load(_save(tmp_path / "old.onnx", model))
    assert [spec.name for spec in subject.inputs] == ["x", "y"]
    written = onnx.load(subject.trace(tmp_path / "t.onnx").path)
    assert [value.name for value in written.graph.input] == ["x", "y"]


def test_local_functions_are_inlined(tmp_path: Path) -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["": 20, "mine": 1]> g (float[N,4] x) => (float[N,4] out) { out = mine.Two(x) }
        <domain: "mine", opset_import: ["": 20]> Two (a) => (b) { b = Add(a, a) }
    """)
    subject = _load(_save(tmp_path / "f.onnx", model))
    written = onnx.load(subject.trace(tmp_path / "t.onnx").path)
    assert [node.op_type for node in written.graph.node] == ["Add"]


def test_external_weights_travel_and_count(tmp_path: Path) -> None:
    path = _save(tmp_path / "e.onnx", _model(), save_as_external_data=True, location="e.bin", size_threshold=100)
    before = find_source(ModelRequest(model=str(path))).key()
    (tmp_path / "out").mkdir()
    written = onnx.load(_load(path).trace(tmp_path / "out" / "t.onnx").path, load_external_data=False)
    assert not any(tensor.data_location == TensorProto.EXTERNAL for tensor in written.graph.initializer)
    data = bytearray((tmp_path / "e.bin").read_bytes())
    data[3] ^= 1
    (tmp_path / "e.bin").write_bytes(data)
    assert find_source(ModelRequest(model=str(path))).key() != before


def test_a_traced_graph_with_symbolic_ops_is_run_by_their_definition(tmp_path: Path) -> None:
    original = rae_dit()
    original.trace(tmp_path / "dit.onnx")
    subject = _load(tmp_path / "dit.onnx")
    assert subject.card().sites == {"ReplaceOutliers": 2}
    assert set(subject.example(80, seed=0)["y"]) == set(range(6))  # 5 classes and the null label
    feeds = original.example(2, seed=3)
    with subject.reference() as reference, original.reference() as torch_reference:
        got, expected = reference.infer(feeds)["out"], torch_reference.infer(feeds)["out"]
    np.testing.assert_allclose(got, expected, atol=2e-5 * max(1, np.abs(expected).max()))
    _, reports = lower(subject.trace(tmp_path / "t.onnx"), tmp_path / "l.onnx")
    assert {report.name: report.count for report in reports}["lower_replace_outliers"] == 2


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"rounds": 10**9}, "'rounds' beyond its limits"),
        ({"choice": "any"}, "'choice' beyond its limits"),
        ({"threshold": float("nan")}, "'threshold' beyond its limits"),
        ({"rounds": 1.5}, "'rounds' of another type"),
        ({"rule": None}, "no attribute 'rule'"),
        ({"more": 1}, "'more', which is not known"),
    ],
)
def test_a_symbolic_op_says_what_it_is_within_limits(tmp_path: Path, changed: dict[str, Any], problem: str) -> None:
    attributes = {"rule": "median", "threshold": 4.0, "rounds": 1, "choice": "mask", **changed}
    kept = {key: value for key, value in attributes.items() if value is not None}
    node = onnx.helper.make_node("ReplaceOutliers", ["x", "r"], ["out"], domain="dsr", **kept)
    values = [onnx.helper.make_tensor_value_info(name, 1, ["batch", 4, 8]) for name in ("x", "out")]
    rows = onnx.numpy_helper.from_array(np.zeros((1, 8), np.float32), "r")
    graph = onnx.helper.make_graph([node], "g", values[:1], values[1:], [rows])
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("dsr", 1)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "m.onnx")
    with pytest.raises(ExportError, match=problem):
        _load(tmp_path / "m.onnx")


def test_a_build_end_to_end(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _save(tmp_path / "my.onnx", _model())
    done = cli("build", "my.onnx", "--target", "onnxruntime", "--precision", "fp16", "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report["passed"] is True
    assert {row["reference"] for row in report["parity"]} == {"onnxruntime-fp32", "row 0", "itself"}
    assert any(row["max_abs"] > 0 for row in report["parity"])  # FP16 differs, so two things were compared
    bundle = Bundle.open(Path("my.dsr"))
    assert bundle.manifest.model["family"] == "onnx"
    assert set(bundle.manifest.provenance) >= {"onnx_sha256"}
    verified = cli("verify", "my.dsr", "--json")
    assert {row["reference"] for row in json.loads(verified.out)["parity"]} == {"onnxruntime-fp32", "row 0", "itself"}
    assert "up to date" in cli("build", "my.onnx", "--target", "onnxruntime", "--precision", "fp16").err


def test_a_static_file_takes_its_own_batch_only(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _save(tmp_path / "fixed.onnx", _model(SIGNATURE.replace("N", "3")))
    refused = cli("build", "fixed.onnx", "--target", "onnxruntime")
    assert (refused.code, "of 3 only" in refused.err, "--batch 3,3,3" in refused.err) == (1, True, True)
    assert cli("build", "fixed.onnx", "--target", "onnxruntime", "--batch", "3,3,3").code == 0
    assert Bundle.open(Path("fixed.dsr")).manifest.inputs[0].shape == (3, 6, 8)


PLAIN = "(float[N,4] x) => (float[N,4] out)"
REFUSED: dict[str, tuple[onnx.ModelProto, str, str]] = {
    "contrib op": (
        _model(PLAIN, "out = com.microsoft.FastGelu(x)", imports=', "com.microsoft": 1'),
        r"FastGelu \(node 'that makes out'\) is of the domain 'com.microsoft'",
        "without ONNX Runtime's optimisations",
    ),
    "custom domain": (
        _model(PLAIN, "out = acme.Secret(x)", imports=', "acme": 1'),
        "Secret .* of the domain 'acme'",
        "standard ops",
    ),
    "compiled code": (
        _model(PLAIN, "out = com.microsoft.EPContext(x)", imports=', "com.microsoft": 1'),
        "EPContext .* compiled code, which is never run",
        "compiled from",
    ),
    "data-dependent": (
        _model("(float[N,4] x) => (int64[M,K] out)", "out = NonZero(x)"),
        "NonZero .* cannot become static",
        "use Where or a mask",
    ),
    "half": (
        _model("(float16[N,4] x) => (float16[N,4] out)", "out = Relu(x)"),
        r"input 'x' float16 \['N', 4\]: only float32, int64, int32, bool",
        "export it again in float32",
    ),
    "half inside": (
        _model(PLAIN, "h = Cast<to=10>(x) r = Relu(h) out = Cast<to=1>(r)"),
        "Cast .* goes to FLOAT16",
        "--precision fp16",
    ),
    "two free axes": (
        _model("(float[N,T] x) => (float[N,T] out)", "out = Relu(x)"),
        "only the first axis may be free, and T is too",
        "make_dynamic_shape_fixed",
    ),
    "scalar": (
        _model("(float[N,4] x, float t) => (float[N,4] out)", "out = Mul(x, t)"),
        "'t' .* no batch axis",
        "batch",
    ),
    "half free": (
        _model("(float[N,4] x, float[1,4] c) => (float[N,4] out)", "out = Mul(x, c)"),
        "disagree about the batch: x N, c 1",
        "first axis of every input",
    ),
    "no inputs": (_model("() => (float[2] out)", "out = Constant<value_floats=[1.0, 2.0]>()"), "no inputs", "nothing"),
    "batch lost": (
        _model("(float[N,4] x) => (float[1,4] out)", "out = ReduceMean<axes=[0]>(x)"),
        r"'out' has the shape \[1, 4\] at batch 2",
        r"[batch, ...]",
    ),
    "random": (_model(PLAIN, "r = RandomNormalLike(x) out = Add(x, r)"), "differs between two runs", "noise an input"),
    "too new": (
        _model("(float[N,4] x, float[N,4] y) => (float[N,4] out)", "out = RMSNormalization(x, y)", opset=23),
        "opset 23 and cannot be converted to 20: .*RMSNormalization",
        "with opset 20",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_name_the_node_and_the_way_out(tmp_path: Path, case: str) -> None:
    model, message, hint = REFUSED[case]
    with pytest.raises(ExportError, match=message) as refused:
        _load(_save(tmp_path / "bad.onnx", model)).trace(tmp_path / "t.onnx")
    assert hint in str(refused.value.hint)


def test_a_half_weight_is_named(tmp_path: Path) -> None:
    model = _model()
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((5, 8), np.float16), "table"))
    with pytest.raises(ExportError, match="'table' is FLOAT16, and only FP32"):
        _load(_save(tmp_path / "half.onnx", model))


@pytest.mark.parametrize("content", [b"", b"no protobuf", b"\x08\x0a"])
def test_a_corrupt_file_is_refused(tmp_path: Path, content: bytes, cli: Cli) -> None:
    (tmp_path / "bad.onnx").write_bytes(content)
    done = cli("build", tmp_path / "bad.onnx", "--target", "onnxruntime", "--out", tmp_path / "bad.dsr")
    assert done.code == 1
    assert "bad.onnx is not a readable ONNX model" in " ".join(done.err.split())
    assert not (tmp_path / "bad.dsr").exists()


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    content = _save(tmp_path / "my.onnx", _model()).read_bytes()
    (tmp_path / "my.onnx").write_bytes(content[:-9])
    with pytest.raises(ExportError, match="not a readable ONNX model"):
        _load(tmp_path / "my.onnx")


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "link.bin"])
def test_external_data_that_escapes_the_folder_is_never_read(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = _save(folder / "e.onnx", _model(), save_as_external_data=True, location="e.bin", size_threshold=0)
    (tmp_path / "secret.bin").write_bytes((folder / "e.bin").read_bytes())
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        next(entry for entry in tensor.external_data if entry.key == "location").value = location
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match=r"external data of tensor '\w+'.*(plain path|symbolic link)"):
        find_source(ModelRequest(model=str(path))).key()


def test_missing_files_useless_options_and_modules(tmp_path: Path) -> None:
    path = _save(tmp_path / "my.onnx", _model())
    with pytest.raises(ExportError, match="no such file") as missing:
        find_source(ModelRequest(model=str(tmp_path / "mi.onnx")))
    assert missing.value.hint == "did you mean 'my.onnx'?"
    with pytest.raises(ExportError, match="--random-weights does not apply to an ONNX file"):
        find_source(ModelRequest(model=str(path), random_weights=0))
    with pytest.raises(ExportError, match="my is no PyTorch module"):
        load_subject(str(path))


def test_adapting_twice_changes_nothing(tmp_path: Path) -> None:
    once = adapt(read_foreign(_save(tmp_path / "my.onnx", _model())))
    again = adapt(read_foreign(_save(tmp_path / "once.onnx", once)))
    assert again.SerializeToString(deterministic=True) == once.SerializeToString(deterministic=True)


def test_names_stay_unique_however_they_clash() -> None:
    model = _model(PLAIN, "a = Relu(x) b = Relu(a) c = Relu(b) out = Relu(c)")
    for node, name in zip(model.graph.node, ["graph/Relu_0", "", "/Relu", "root/Relu"], strict=True):
        node.name = name
    name_nodes(model)
    assert [node.name for node in model.graph.node] == ["graph/Relu_0", "graph/Relu_0_1", "root/Relu", "root/Relu_1"]
