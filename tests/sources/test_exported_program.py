"""MODEL as a `.pt2` file: how it becomes a subject, and that nothing in it is ever executed or unpickled."""

from __future__ import annotations

import io
import json
import pickle  # noqa: TID251 (to make archives that must be refused)
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dsr_export.backends.onnxruntime import OnnxRuntimeRunner
from dsr_export.bundle.reader import Bundle
from dsr_export.config import ModelRequest
from dsr_export.errors import ExportError
from dsr_export.registers import RecursiveReplacement
from dsr_export.sources import find_source, load_subject
from graphs.lowering import lower
from tests.conftest import Cli
from tests.program_archive.malicious import Malicious

BATCH = torch.export.Dim("batch", min=1)


class Net(nn.Module):
    """Tokens [B, 6, 4] and a label [B], with one replacement site."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.table = nn.Linear(4, 4), nn.Embedding(9, 4)
        rows = torch.randn(2, 4)
        self.site = RecursiveReplacement(rule="median", threshold=1.1, registers=rows)
        self.plain = torch.full((4,), 2.0)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        h = self.site(self.linear(x) + self.table(y)[:, None])
        return h * self.plain, y + 1


EXAMPLE = (torch.linspace(-1, 1, 2 * 6 * 4).reshape(2, 6, 4), torch.tensor([2, 8]))


def _save(path: Path, module: nn.Module, example: tuple[Any, ...] = EXAMPLE, **options: Any) -> Path:
    torch.export.save(torch.export.export(module.eval(), example, **options), path)
    return path


@pytest.fixture(scope="module")
def dynamic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("programs") / "net.pt2"
    return _save(path, Net(), dynamic_shapes=({0: BATCH}, {0: BATCH}))


def test_a_program_is_traced_from_its_own_graph(dynamic: Path, tmp_path: Path) -> None:
    subject = load_subject(str(dynamic))
    assert [(s.name, s.dtype, s.shape) for s in subject.inputs] == [
        ("x", "float32", ("batch", 6, 4)),
        ("y", "int64", ("batch",)),
    ]
    assert [(s.name, s.dtype) for s in subject.outputs] == [("out", "float32"), ("out_1", "int64")]
    assert subject.sites == {"ReplaceOutliers": 1, "ShiftRegisterNeurons": 0}
    assert subject.batch_limits == (1, None)
    assert set(subject.example(30, seed=0)["y"]) == {2, 8}  # as in the example that was saved
    lowered, _ = lower(subject.trace(tmp_path / "traced.onnx"), tmp_path / "lowered.onnx")
    feeds = subject.example(3, seed=1)
    with subject.reference() as reference, OnnxRuntimeRunner(lowered.path, inputs=subject.inputs) as runner:
        expected, got = reference.infer(feeds), runner.infer(feeds)
    truth = Net()(*(torch.from_numpy(value) for value in feeds.values()))
    np.testing.assert_allclose(expected["out"], truth[0].detach(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got["out"], expected["out"], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(got["out_1"], expected["out_1"])


def test_keyword_inputs_are_fed_by_name(tmp_path: Path) -> None:
    shapes = {"x": {0: BATCH}, "y": {0: BATCH}}
    program = torch.export.export(Net(), (EXAMPLE[0],), {"y": EXAMPLE[1]}, dynamic_shapes=shapes)
    torch.export.save(program, tmp_path / "k.pt2")
    subject = load_subject(str(tmp_path / "k.pt2"))
    assert [spec.name for spec in subject.inputs] == ["x", "y"]
    assert subject.trace(tmp_path / "traced.onnx").sites["ReplaceOutliers"] == 1


def test_a_static_program_builds_at_its_own_batch_only(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _save(tmp_path / "still.pt2", Net())
    refused = cli("build", "still.pt2", "--target", "onnxruntime")
    assert refused.code == 1
    assert "still takes batches of 2 only" in refused.err
    assert "--batch 2,2,2" in refused.err
    done = cli("build", "still.pt2", "--target", "onnxruntime", "--batch", "2,2,2", "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report["rewrites"]["lower_replace_outliers"] == 1
    assert {row["reference"] for row in report["parity"]} == {"torch-fp32", "row 0", "itself"}
    assert Bundle.open(Path("still.dsr")).manifest.inputs[0].shape == (2, 6, 4)


def test_bounds_of_the_batch_are_the_programs(tmp_path: Path) -> None:
    axis = torch.export.Dim("batch", min=2, max=6)
    _save(tmp_path / "b.pt2", Net(), dynamic_shapes=({0: axis}, {0: axis}))
    assert load_subject(str(tmp_path / "b.pt2")).batch_limits == (2, 6)


def test_the_key_is_the_files_content(dynamic: Path, tmp_path: Path) -> None:
    copy = tmp_path / "other.pt2"
    copy.write_bytes(dynamic.read_bytes())
    keys = [find_source(ModelRequest(model=str(path))).key() for path in (dynamic, copy)]
    assert keys[0] == keys[1]
    copy.write_bytes(copy.read_bytes() + b"\0")
    assert find_source(ModelRequest(model=str(copy))).key() != keys[0]


def test_inputs_that_do_not_fit(tmp_path: Path) -> None:
    x = EXAMPLE[0]
    with pytest.raises(ExportError, match="'input' is float64"):
        load_subject(str(_save(tmp_path / "d.pt2", nn.Flatten(), (x.double(),))))
    tokens = torch.export.Dim("tokens")
    free = _save(tmp_path / "f.pt2", nn.ReLU(), (x,), dynamic_shapes={"input": {0: BATCH, 1: tokens}})
    with pytest.raises(ExportError, match="only the first axis may be free"):
        load_subject(str(free))
    mixed = _save(tmp_path / "m.pt2", nn.Bilinear(4, 4, 1), (x[0], x[0]), dynamic_shapes=None)
    assert load_subject(str(mixed)).batch_limits == (6, 6)
    with pytest.raises(ExportError, match=r"the inputs' first axes are not one batch: x \[2, 6, 4\], y \[3\]"):
        load_subject(str(_save(tmp_path / "n.pt2", Disagreeing(), (x, torch.ones(3)))))
    with pytest.raises(ExportError, match="'weight' is bfloat16"):
        load_subject(str(_save(tmp_path / "h.pt2", Half(), (x,))))
    training = torch.export.export(nn.BatchNorm1d(6), (x,))
    torch.export.save(training, tmp_path / "t.pt2")
    with pytest.raises(ExportError, match="changes its buffer 'running_mean'"):
        load_subject(str(tmp_path / "t.pt2"))
    torch.export.save(torch.export.export(nn.Dropout(), (x,)), tmp_path / "r.pt2")
    with pytest.raises(ExportError, match="differs between two runs"):
        load_subject(str(tmp_path / "r.pt2"))


class Disagreeing(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x * y.sum()


class Half(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.float()


def _altered(source: Path, target: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    with zipfile.ZipFile(source) as archive:
        root = archive.namelist()[0].partition("/")[0]
        members = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(f"{root}/{name}", content)
    return target


def _model(members: dict[str, bytes], change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(members["models/model.json"])
    change(content)
    members["models/model.json"] = json.dumps(content).encode()


def _config(members: dict[str, bytes], change: Callable[[dict[str, Any]], Any]) -> None:
    name = "data/weights/model_weights_config.json"
    content = json.loads(members[name])
    change(next(iter(content["config"].values())))
    members[name] = json.dumps(content).encode()


def _graph(content: dict[str, Any]) -> Any:
    return content["graph_module"]["graph"]


def _sizes(content: dict[str, Any]) -> Any:
    return _graph(content)["tensor_values"]["x"]["sizes"][0]["as_expr"]


ATTACKS: dict[str, Callable[[dict[str, bytes], Path], Any]] = {
    "guards": lambda m, p: _model(m, lambda c: c["guards_code"].append(f"__import__('pathlib').Path('{p}').touch()")),
    "guards, no dunder": lambda m, p: _model(m, lambda c: c["guards_code"].append(f"open('{p}', 'w')")),
    "shape": lambda m, p: _model(m, lambda c: _sizes(c).update(expr_str=f"open('{p}', 'w')")),
    "target": lambda m, p: _model(m, lambda c: _graph(c)["nodes"][0].update(target="torch.hub.load")),
    "argument name": lambda m, p: _model(
        m,
        lambda c: c["graph_module"]["module_call_graph"][0]["signature"].update(
            forward_arg_names=["x", f"y=open('{p}', 'w')"]
        ),
    ),
    "class to import": lambda m, p: _model(
        m, lambda c: c["graph_module"].update(treespec_namedtuple_fields={"os.system": ["a"]})
    ),
    "pickled weight": lambda m, p: (
        _config(m, lambda w: w.update(use_pickle=True)),
        m.update({"data/weights/weight_0": pickle.dumps(Malicious(p))}),
    ),
    "pickled examples": lambda m, p: m.update({"data/sample_inputs/model.pt": _saved(Malicious(p))}),
    "pickled constant": lambda m, p: m.update({"data/constants/opaque_obj_0": pickle.dumps(Malicious(p))}),
    "compiled code": lambda m, p: m.update({"data/aotinductor/model/model.so": b"\x7fELF"}),
    "second program": lambda m, p: m.update({"models/other.json": m["models/model.json"]}),
    "older format": lambda m, p: m.update({"data/weights/model.pt": _saved(Malicious(p))}),
}


def _saved(value: Any) -> bytes:
    stream = io.BytesIO()
    torch.save((value,), stream)
    return stream.getvalue()


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_could_execute_code_is_refused_unopened(dynamic: Path, tmp_path: Path, attack: str) -> None:
    touched = tmp_path / "touched"
    path = _altered(dynamic, tmp_path / "a.pt2", lambda members: ATTACKS[attack](members, touched))
    with pytest.raises(ExportError, match="could execute code|would be unpickled") as refused:
        load_subject(str(path))
    assert "torch.export.save" in str(refused.value.hint)
    assert not touched.exists()


def test_an_archive_rewritten_but_unchanged_still_loads(dynamic: Path, tmp_path: Path) -> None:
    """The attacks above are refused for what they are, not because the archive was written again."""
    path = _altered(dynamic, tmp_path / "same.pt2", lambda members: None)
    assert load_subject(str(path)).sites["ReplaceOutliers"] == 1


@pytest.mark.parametrize("kept", [0, 10, 700, -1])
def test_a_damaged_file_is_refused(dynamic: Path, tmp_path: Path, kept: int) -> None:
    content = dynamic.read_bytes()
    (tmp_path / "bad.pt2").write_bytes(content[:kept])
    with pytest.raises(ExportError, match="bad.pt2 is no readable exported program"):
        load_subject(str(tmp_path / "bad.pt2"))


def test_flipped_bytes_are_refused_or_harmless(dynamic: Path, tmp_path: Path) -> None:
    content = bytearray(dynamic.read_bytes())
    at = content.index(b'"graph_module"')
    content[at + 2] ^= 0x20
    (tmp_path / "bad.pt2").write_bytes(content)
    with pytest.raises(ExportError, match="no readable exported program"):
        load_subject(str(tmp_path / "bad.pt2"))


def test_missing_files_and_useless_options(tmp_path: Path, dynamic: Path) -> None:
    (tmp_path / "right.pt2").write_bytes(b"")
    with pytest.raises(ExportError, match="no such file") as missing:
        load_subject(str(tmp_path / "rihgt.pt2"))
    assert missing.value.hint == "did you mean 'right.pt2'?"
    with pytest.raises(ExportError, match="--checkpoint does not apply to an exported program"):
        load_subject(str(dynamic), checkpoint=tmp_path / "w.safetensors")
