"""MODEL as `package.module:callable`: what is accepted, what identifies it, and every way to be told no."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dsr_export.bundle.reader import Bundle
from dsr_export.config import ModelRequest
from dsr_export.errors import ExportError
from dsr_export.sources import find_source, load_subject
from tests.conftest import Cli

HEADER = """
import torch
from torch import nn
import dsr_export
from dsr_export.registers import RecursiveReplacement, TestTimeRegisters

class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(width, width)

    def forward(self, x, y, shift=None):
        out = self.linear(x) + y[:, None].float()
        return out if shift is None else out + shift

def inputs(rows=2):
    return {"x": torch.randn(rows, 4), "y": torch.tensor([3, 7][:rows])}
"""
_numbers = itertools.count()
Write = Callable[..., str]


def _key(model: str) -> dict[str, Any]:
    return find_source(ModelRequest(model=model)).key()


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a module into the current folder; its name, which no other test uses."""
    monkeypatch.chdir(tmp_path)

    def to_file(body: str, header: str = HEADER) -> str:
        name = f"own_model_{next(_numbers)}"
        (tmp_path / f"{name}.py").write_text(header + body)
        return name

    return to_file


def test_a_pair_of_module_and_inputs(write: Write) -> None:
    name = write("def build():\n    return Net().train(), {'y': inputs()['y'], 'x': inputs()['x']}\n")
    subject = load_subject(f"{name}:build")
    assert not subject.module.training
    assert [(s.name, s.dtype, s.shape) for s in subject.inputs] == [
        ("x", "float32", ("batch", 4)),  # in forward's order
        ("y", "int64", ("batch",)),
    ]
    assert [(s.name, s.dtype, s.shape) for s in subject.outputs] == [("out", "float32", ("batch", 4))]
    assert subject.card().sites == {"ReplaceOutliers": 0, "ShiftRegisterNeurons": 0}
    assert set(subject.example(40, seed=1)["y"]) == {3, 7}  # integers as in the example: anything else may be refused
    np.testing.assert_array_equal(subject.example(5, seed=1)["x"][:2], subject.example(2, seed=1)["x"])


def test_inputs_that_the_module_carries_and_outputs_by_name(write: Write) -> None:
    name = write("""
class Two(Net):
    def example_inputs(self): return {"x": torch.randn(3, 4), "shift": torch.ones(3, 4), "y": torch.zeros(3).long()}
    def forward(self, x, y, *, shift): return {"sum": super().forward(x, y, shift), "y2": y * 2}
""")
    subject = load_subject(f"{name}:Two")
    assert [spec.name for spec in subject.inputs] == ["x", "shift", "y"]
    assert [(spec.name, spec.dtype) for spec in subject.outputs] == [("sum", "float32"), ("y2", "int64")]
    feeds = subject.example(2, seed=0)
    assert len(np.unique(feeds["x"])) > 4
    assert (feeds["shift"] == 1).all()  # constants stay constant
    with subject.reference() as runner:
        got = runner.infer(feeds)
    linear = subject.module.linear(torch.from_numpy(feeds["x"])).detach().numpy()
    np.testing.assert_allclose(got["sum"], linear + feeds["y"][:, None] + feeds["shift"], rtol=1e-5, atol=1e-5)


def test_several_outputs_are_numbered_and_options_reach_the_callable(write: Write) -> None:
    name = write("""
class Pair(Net):
    def forward(self, x): return self.linear(x), x * 2
def build(width): return Pair(width), {"x": torch.randn(2, width)}
""")
    subject = load_subject(f"{name}:build", width=6)
    assert [spec.name for spec in subject.outputs] == ["out", "out_1"]
    assert subject.inputs[0].shape == ("batch", 6)


def test_our_modules_are_counted_where_they_are_called(write: Write) -> None:
    name = write("""
class Replacing(Net):
    def __init__(self):
        super().__init__()
        self.site = RecursiveReplacement(rule="absolute", threshold=1.0, choice="mask")
        self.unused = RecursiveReplacement(rule="absolute", threshold=1.0, choice="mask")
        self.off = RecursiveReplacement(rule="absolute", threshold=1.0, choice="mask")
        self.off.enabled = False
        self.shift = TestTimeRegisters([1, 2])
    def forward(self, x): return self.off(self.site(self.shift(self.site(self.linear(x)))))
def build(): return Replacing(), {"x": torch.randn(2, 5, 4)}
def whole():
    spec = dsr_export.Subject.__dataclass_fields__["inputs"]
    from graphs.artifacts import TensorSpec
    from dsr_export.sampling import SamplerSpec
    shape = ("batch", 5, 4)
    return dsr_export.Subject(name="mine", family="own", module=Replacing(), dsr=dsr_export.spec.DsrSpec(),
        inputs=(TensorSpec(name="x", dtype="float32", shape=shape),), sampler=SamplerSpec(num_steps=3),
        outputs=(TensorSpec(name="out", dtype="float32", shape=shape),))
""")
    for callable_name in ("build", "whole"):
        subject = load_subject(f"{name}:{callable_name}")
        assert subject.card().sites == {"ReplaceOutliers": 2, "ShiftRegisterNeurons": 1}
    assert not subject.module.training
    assert subject.sampler is not None and subject.name == "mine"


def test_the_key_follows_code_files_and_weights(write: Write, tmp_path: Path) -> None:
    (tmp_path / "own_layers.py").write_text("SCALE = 1.0\n")
    name = write("""
import own_layers
def build():
    module = Net()
    module.load_state_dict(torch.load("weights.pt", weights_only=True))
    return module, {"x": torch.ones(2, 4), "y": torch.zeros(2).long()}
""")
    state = {"linear.weight": torch.eye(4), "linear.bias": torch.zeros(4)}
    torch.save(state, tmp_path / "weights.pt")
    first, again = _key(f"{name}:build"), _key(f"{name}:build")
    assert first == again
    assert json.loads(json.dumps(first)) == first
    torch.save({**state, "linear.bias": torch.ones(4)}, tmp_path / "weights.pt")
    weights = _key(f"{name}:build")
    assert weights["code_sha256"] == first["code_sha256"]
    assert weights["content_sha256"] != first["content_sha256"]
    (tmp_path / "own_layers.py").write_text("SCALE = 2.0\n")
    assert _key(f"{name}:build")["code_sha256"] != first["code_sha256"]


def test_a_package_is_identified_by_all_its_files(write: Write, tmp_path: Path) -> None:
    package = tmp_path / "own_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "other.py").write_text("")
    (package / "model.py").write_text(HEADER + "def build(): return Net(), inputs()\n")
    before = _key("own_package.model:build")
    (package / "other.py").write_text("CHANGED = True\n")
    assert _key("own_package.model:build")["code_sha256"] != before["code_sha256"]
    assert find_source(ModelRequest(model="own_package.model:build")).name == "build"


def test_a_checkpoint_is_loaded_strictly(write: Write, tmp_path: Path) -> None:
    name = write("def build(): return Net(), inputs()\n")
    save_file({"linear.weight": torch.eye(4), "linear.bias": torch.ones(4)}, tmp_path / "w.safetensors")
    subject = load_subject(f"{name}:build", checkpoint=tmp_path / "w.safetensors")
    assert torch.equal(subject.module.linear.weight, torch.eye(4))
    assert set(subject.provenance) == {"callable", "checkpoint_sha256", "weights"}
    save_file({"linear.weight": torch.eye(4), "linear.bais": torch.ones(4)}, tmp_path / "w.safetensors")
    with pytest.raises(ExportError, match=r"1 missing:\n  linear.bias"):
        load_subject(f"{name}:build", checkpoint=tmp_path / "w.safetensors")


REFUSED = {
    "returns None": ("def build(): pass", "returns None, not a module", "Subject"),
    "returns a dict": ("def build(): return {}", "returns a dict, not a module", "Subject"),
    "returns a triple": (
        "def build(): return Net(), inputs(), 1",
        "a tuple of Net, dict, int",
        "module and its inputs",
    ),
    "raises": ("def build(): raise KeyError('weights')", "raised KeyError: 'weights'", "call it"),
    "no inputs": ("def build(): return Net()", "comes without example inputs", "example_inputs"),
    "inputs no dict": ("def build(): return Net(), [1]", "are a list, not tensors by name", "return a module"),
    "array input": ("def build(): return Net(), {'x': 1.0}", "'x' .* is a float, not a tensor", "constants"),
    "double input": (
        "def build(): return Net(), {**inputs(), 'x': torch.randn(2, 4).double()}",
        "'x' of .* is float64; float32",
        r"x\.float\(\)",
    ),
    "double weights": ("def build(): return Net().double(), inputs()", "'linear.weight' is float64", r"module\.float"),
    "scalar": ("def build(): return Net(), {**inputs(), 'y': torch.tensor(3)}", r"'y' .* shape \[\]", "first axis"),
    "two batches": (
        "def build(): return Net(), {**inputs(), 'y': torch.tensor([3])}",
        r"disagree about the batch: x \[2, 4\], y \[1\]",
        "first axis",
    ),
    "unknown input": ("def build(): return Net(), {'x': torch.randn(2, 4), 'yy': 0 * inputs()['y']}", "'yy'", "'y'"),
    "missing input": ("def build(): return Net(), {'x': torch.randn(2, 4)}", "also takes 'y'", "add it"),
    "fails": (
        "def build(): return Net(5), inputs()",
        "own example inputs raised RuntimeError",
        r"module\(\*\*inputs\)",
    ),
    "fixed batch": (
        "class Fixed(Net):\n    def forward(self, x): return x.reshape(4, 4)\n"
        "def build(): return Fixed(), {'x': torch.randn(4, 4)}",
        ":build at batch 2 raised RuntimeError",
        "any batch",
    ),
    "batch lost": (
        "class Sum(Net):\n    def forward(self, x): return x.sum(0)\n"
        "def build(): return Sum(), {'x': torch.ones(2, 4)}",
        r"'out' has the shape \[4\] at batch 2",
        r"\[batch, \.\.\.\]",
    ),
    "random": (
        "class R(Net):\n    def forward(self, x): return x + torch.rand(4)\n"
        "def build(): return R(), {'x': torch.ones(2, 4)}",
        "differs between two runs",
        "noise an input",
    ),
    "stateful at once": (  # its outputs differ from run to run, too
        "class C(Net):\n    def forward(self, x):\n        self.p.mul_(0.5)\n        return x + self.p\n"
        "def build():\n    m = C(); m.register_buffer('p', torch.ones(4))\n    return m, {'x': torch.ones(2, 4)}",
        "changes its buffer 'p'",
        "work on a copy",
    ),
    "replaced": (
        "class C(Net):\n    def forward(self, x):\n        self.p = self.p / 2\n        return x + self.p\n"
        "def build():\n    m = C(); m.register_buffer('p', torch.ones(4))\n    return m, {'x': torch.ones(2, 4)}",
        "changes its buffer 'p'",
        "work on a copy",
    ),
    "a number for the batch": (
        "class C(Net):\n    def forward(self, x): return x.view(2, 2, 2).flatten(1)\n"
        "def build(): return C(), {'x': torch.ones(2, 4)}",
        r"at batch 3 raised RuntimeError: shape '\[2, 2, 2\]' is invalid",
        "write x.shape\\[0\\], or -1 in a view",
    ),
    "stateful": (
        "class C(Net):\n    def forward(self, x):\n        self.calls.add_(1)\n        return x\n"
        "def build():\n    m = C(); m.register_buffer('calls', torch.zeros(1))\n    return m, {'x': torch.ones(2, 4)}",
        "changes its buffer 'calls'",
        "keeps no state",
    ),
    "not callable": ("build = 3", "is int, not callable", "function"),
    "misspelt": ("def biuld(): pass", "has no 'build'", "did you mean 'biuld'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_name_the_cause_and_the_way_out(write: Write, case: str) -> None:
    body, message, hint = REFUSED[case]
    name = write(body)
    with pytest.raises(ExportError, match=message) as refused:
        load_subject(f"{name}:build")
    assert refused.value.hint is not None
    assert re.search(hint, refused.value.hint), refused.value.hint


def test_modules_that_cannot_be_imported(write: Write) -> None:
    (broken, missing) = write("def build(:", header=""), write("import no_such_package_at_all", header="")
    with pytest.raises(ExportError, match=rf"importing {broken} failed: SyntaxError: .* \({broken}.py, line 1\)"):
        load_subject(f"{broken}:build")
    with pytest.raises(ExportError, match="failed: ModuleNotFoundError: No module named 'no_such_package_at_all'"):
        load_subject(f"{missing}:build")
    with pytest.raises(ExportError, match="no module 'own_modle_x'") as refused:
        load_subject("own_modle_x:build")
    assert "own_model_" in str(refused.value.hint)
    with pytest.raises(ExportError, match="is not package.module:callable"):
        find_source(ModelRequest(model="models/dit.py:build"))


def test_a_module_of_the_users_own_survives_a_build(write: Write) -> None:
    name = write("""
net = Net()
net.example_inputs = {"x": torch.randn(2, 4), "y": torch.zeros(2).long()}
""")
    subject = load_subject(f"{name}:net")
    weight = subject.module.linear.weight.clone()
    subject.release()
    assert torch.equal(load_subject(f"{name}:net").module.linear.weight, weight)


def test_options_without_use_are_refused(write: Write) -> None:
    name = write("def build(): return Net(), inputs()\n")
    with pytest.raises(ExportError, match="--registers does not apply to a callable"):
        find_source(ModelRequest(model=f"{name}:build", registers=4))


def test_a_build_end_to_end(write: Write, cli: Cli) -> None:
    name = write("""
print("this must not reach stdout")
class Replacing(Net):
    def __init__(self):
        super().__init__()
        rows = torch.randn(3, 4)
        self.site = RecursiveReplacement(rule="median", threshold=1.2, rounds=2, registers=rows)
    def forward(self, x): return self.site(self.linear(x))
def small(): return Replacing(), {"x": torch.randn(2, 9, 4)}
""")
    done = cli("build", f"{name}:small", "--target", "onnxruntime", "--batch", "1,2,3", "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report["rewrites"]["lower_replace_outliers"] == 1
    assert report["parity"][0]["reference"] == "torch-fp32"
    bundle = Bundle.open(Path("small.dsr"))
    assert bundle.manifest.model["family"] == "callable"
    assert cli("verify", "small.dsr").code == 0
    again = cli("build", f"{name}:small", "--target", "onnxruntime", "--batch", "1,2,3")
    assert "up to date" in again.err
