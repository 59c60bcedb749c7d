"""A precision is one record: whoever reads one fails by name where it is missing, and nothing passes for another."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import onnx
import pytest
from onnx import parser

from calibration.range_audit import RangeAudit
from dsr_export.backends.opening import fused_runner, tapped_runner, typed_runner
from dsr_export.building.bundle_contents import build_tolerance
from dsr_export.cli.build import command
from dsr_export.config import ExportConfig
from dsr_export.errors import ExportError
from dsr_export.parity.narrowing import least_narrow, require_narrowed
from dsr_export.parity.tolerances import TOLERANCES
from dsr_export.verification.model_checks import WEIGHTS
from graphs import precisions
from graphs.artifacts import OptimizedModel, TensorSpec
from graphs.foreign.types import foreign_types
from graphs.mixed_precision.emulate import LOW
from graphs.mixed_precision.islands import PrecisionPolicy
from graphs.mixed_precision.typed import assign_precision, typed_spec
from graphs.precisions import PRECISIONS, Precision, quantized_precisions
from graphs.quantize.schemes import SCHEMES
from graphs.target_precisions import lacks
from graphs.targets import target
from graphs.weights.element_types import low_precision_fraction

PACKAGES = ("dsr_export", "graphs", "calibration")
ROOT = Path(precisions.__file__).parent.parent
FIFTH: Any = "int3"
INPUTS = (TensorSpec(name="x", dtype="float32", shape=("batch", 2)),)
TYPING = {"half_weight_fraction": 1.0, "fp32_reasons": {}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("precisions") / "model.onnx"
    text = '<ir_version: 9, opset_import: ["" : 20]> g (float[batch,2] x) => (float[batch,2] y) { [only] y = Relu(x) }'
    onnx.save(parser.parse_model(text), path)
    return path


READERS: Mapping[str, Callable[[Path, Any], Any]] = {
    "low_precision_fraction": lambda model, name: low_precision_fraction(onnx.load(model), name),
    "foreign_types": lambda model, name: foreign_types(onnx.load(model), name),
    "typed_spec": lambda model, name: typed_spec(name, {}),
    "assign_precision": lambda model, name: assign_precision(
        OptimizedModel(path=model), model.with_name("typed.onnx"), name, PrecisionPolicy()
    ),
    "wide_tensors": lambda model, name: RangeAudit({}, {}, 1).wide_tensors(name),
    "least_narrow": lambda model, name: least_narrow(name),
    "name of the check": lambda model, name: WEIGHTS.name(name),
    "require_narrowed": lambda model, name: require_narrowed(name, TYPING),
    "ExportConfig": lambda model, name: ExportConfig(precision=name),
    "typed_runner": lambda model, name: typed_runner(model, INPUTS, name),
    "fused_runner": lambda model, name: fused_runner(model, INPUTS, name),
    "tapped_runner": lambda model, name: tapped_runner(model, INPUTS, name, []),
    "TOLERANCES": lambda model, name: build_tolerance(ExportConfig(precision=name)),
    "SCHEMES": lambda model, name: SCHEMES[name] if PRECISIONS[name].quantized else None,
    "lacks": lambda model, name: lacks(target("onnxruntime"), name, None),
    "Precision": lambda model, name: {each: each for each in get_args(Precision)}[name],
}
"""Whatever is told apart by precision."""


def missing(model: Path, precision: Any) -> list[str]:
    """Those of `READERS` that do not know it; each says its name."""
    found = []
    for name, read in READERS.items():
        try:
            read(model, precision)
        except (KeyError, ExportError) as error:
            found.append(name if str(precision) in str(error) else f"{name}: {error}")
    return found


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_is_known_everywhere(model: Path, precision: Precision) -> None:
    assert missing(model, precision) == []


def test_one_without_a_record_passes_for_no_other(model: Path) -> None:
    assert missing(model, FIFTH) == list(READERS)


def test_a_fifth_record_lacks_its_tolerance_and_its_type(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRECISIONS, FIFTH, replace(PRECISIONS["fp16"], fused=False))  # type: ignore[arg-type]
    assert missing(model, FIFTH) == ["TOLERANCES", "lacks", "Precision"]


def test_a_quantised_one_lacks_its_formats_too(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRECISIONS, FIFTH, replace(PRECISIONS["int8"], fused=False))  # type: ignore[arg-type]
    assert missing(model, FIFTH) == ["TOLERANCES", "SCHEMES", "lacks", "Precision"]


def test_the_lists_agree() -> None:
    assert get_args(Precision) == tuple(PRECISIONS) == tuple(TOLERANCES)
    assert next(each for each in command.params if each.name == "precision").type.names == tuple(PRECISIONS)  # type: ignore[attr-defined]
    assert {record.around for record in PRECISIONS.values() if record.narrow} == LOW


@pytest.mark.parametrize("precision", SCHEMES)
def test_formats_are_those_of_the_record(precision: Precision) -> None:
    """And each has a name under which the report knows it: that of a precision."""
    scheme, record = SCHEMES[precision], PRECISIONS[precision]
    formats = (*scheme.tokens, scheme.condition)
    assert {each.weights.type for each in formats} == record.narrow_types
    assert scheme.tokens[0].weights.type == record.weights
    assert scheme.tokens[0].name == precision and {each.name for each in formats} <= set(quantized_precisions())
    assert scheme.budget_db >= TOLERANCES[precision].snr_db
    assert f"{precision} {scheme.budget_db:g}" in str(_option("int8_budget").help)


def test_the_options_of_int8_have_general_names_beside_theirs() -> None:
    assert _option("int8_budget").opts == ["--budget", "--int8-budget"]
    assert _option("int8_method").opts == ["--method", "--int8-method"]


def _option(name: str) -> Any:
    return next(each for each in command.params if each.name == name)


def test_a_record_decides_everything() -> None:
    record = PRECISIONS["int8"]
    for each in fields(record):
        with pytest.raises(TypeError, match=each.name):
            precisions.PrecisionRecord(**{f.name: getattr(record, f.name) for f in fields(record) if f != each})


def test_element_types_are_onnx_own() -> None:
    names = ("FLOAT", "INT8", "FLOAT16", "BFLOAT16")
    assert [getattr(precisions, name) for name in names] == [getattr(onnx.TensorProto, name) for name in names]
    assert precisions.FLOAT8 == onnx.TensorProto.FLOAT8E4M3FN


ALLOWED = {
    "dsr_export/engine_schedule/inspected_layers.py",  # TensorRT's words for element types
    "dsr_export/parity/tolerances.py",  # what each may cost
    "graphs/precisions.py",
    "graphs/quantize/schemes.py",  # the formats of each that is quantised
    "dsr_export/engine_schedule/devices.py",  # not precisions: what a plan calls its types
    "dsr_export/engine_schedule/tensors.py",
    "graphs/target_precisions.py",  # what each needs of a device, of ONNX and of a runtime
}


def test_nothing_else_tells_precisions_apart() -> None:
    places = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if any(_tells_apart(node) for node in _nodes(path))
    }
    assert places == ALLOWED


def test_what_counts_as_telling_apart() -> None:
    source = 'a == "fp32"; b in {"fp16", "int8"}; {"fp16": 1, "bf16": 2}; TABLE.get(self.precision, 0); c["int8"]'
    found = [_tells_apart(node) for node in ast.walk(ast.parse(source))]
    assert sum(found) == 4


def _nodes(path: Path) -> Iterator[ast.AST]:
    text = path.read_text(encoding="utf-8")
    return ast.walk(ast.parse(text)) if re.search(r'"(fp16|bf16|int8|fp8|fp32)"|\.get\(', text) else iter(())


def _tells_apart(node: ast.AST) -> bool:
    """A comparison with a precision's name, a table of its own by precision, or a look-up that has a fallback."""
    if isinstance(node, ast.Compare):
        return any(_named(each) for side in (node.left, *node.comparators) for each in ast.walk(side))
    if isinstance(node, ast.Dict):
        return sum(_named(key) for key in node.keys if key is not None) > 1
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
        return ast.unparse(node.args[0]).split(".")[-1] == "precision"
    return False


def _named(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value in PRECISIONS
