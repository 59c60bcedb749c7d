"""A graph at a later opset computes what it did; operators whose meaning changes are known, all of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
import pytest
from onnx import numpy_helper

from graphs.errors import ExportError
from graphs.files import IR_VERSION, load_inferred_graph, save_graph
from graphs.opsets import raise_opset
from graphs.quantize.formats import FORMATS

TRACED = 20
CHANGED = {
    "GroupNormalization": "scales channels, not groups: mended",
    "QuantizeLinear": "more attributes, whose defaults are what there was",
    "DequantizeLinear": "more attributes, whose defaults are what there was",
}


def _changed(old: onnx.defs.OpSchema, new: onnx.defs.OpSchema) -> bool:
    attributes = [{name: str(each.default_value) for name, each in s.attributes.items()} for s in (old, new)]
    names = [([each.name for each in s.inputs], [each.name for each in s.outputs], s.deprecated) for s in (old, new)]
    return attributes[0] != attributes[1] or names[0] != names[1]


def test_no_other_operator_has_another_meaning_at_the_opsets_of_our_formats() -> None:
    """By what ONNX says of each version: inputs, attributes and their defaults; else types alone are new."""
    last = max(form.opset for form in FORMATS.values())
    schemas: dict[str, dict[int, onnx.defs.OpSchema]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if not schema.domain:
            schemas.setdefault(schema.name, {})[schema.since_version] = schema
    found = set()
    for name, versions in schemas.items():
        old, new = (max((each for each in versions if each <= at), default=0) for at in (TRACED, last))
        if old and old != new and _changed(versions[old], versions[new]):
            found.add(name)
    assert found == set(CHANGED)


def _normed(path: Path, channels: str = "6") -> Path:
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 20]> g (float[N,{channels},4] x) => (float[N,{channels},4] y) '
        "{ [gn] y = GroupNormalization<num_groups=3>(x, s, b) }"
    )
    rng = np.random.default_rng(0)
    model.graph.initializer.extend(
        numpy_helper.from_array(rng.standard_normal(3).astype(np.float32), name) for name in "sb"
    )
    onnx.save(model, path)
    return path


def _run(path: Path, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


@pytest.mark.parametrize("version", [21, 23])
def test_groups_are_scaled_as_before(tmp_path: Path, version: int) -> None:
    before = _normed(tmp_path / "m.onnx")
    graph = load_inferred_graph(before)
    raise_opset(graph, version)
    raise_opset(graph, version)  # once is enough
    after = save_graph(graph, tmp_path / "raised.onnx")
    x = np.random.default_rng(1).standard_normal((2, 6, 4)).astype(np.float32)
    np.testing.assert_allclose(_run(after, x), _run(before, x), rtol=1e-5, atol=1e-6)
    onnx.checker.check_model(onnx.load(after))


def test_unknown_channels_are_refused_by_name(tmp_path: Path) -> None:
    graph = load_inferred_graph(_normed(tmp_path / "m.onnx", channels="C"))
    with pytest.raises(ExportError, match="gn: GroupNormalization scales groups before opset 21"):
        raise_opset(graph, 21)


def test_below_the_change_nothing_is_touched(tmp_path: Path) -> None:
    graph = load_inferred_graph(_normed(tmp_path / "m.onnx", channels="C"))
    raise_opset(graph, 20)
    assert graph.opset == 20


def test_an_older_version_is_no_step_back() -> None:
    graph = gs.Graph(opset=23)
    raise_opset(graph, 21)
    assert graph.opset == 23


@pytest.mark.parametrize(("version", "ir"), [(20, IR_VERSION), (21, 10), (23, 11)])
def test_the_file_has_the_opset_and_the_format_that_it_needs(tmp_path: Path, version: int, ir: int) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20, "dsr": 1]> g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }'
    )
    onnx.save(model, tmp_path / "m.onnx")
    graph = load_inferred_graph(tmp_path / "m.onnx")
    raise_opset(graph, version)
    made = onnx.load(save_graph(graph, tmp_path / "raised.onnx"))
    assert {entry.domain: entry.version for entry in made.opset_import}[""] == version
    assert made.ir_version == ir
    assert _run(tmp_path / "raised.onnx", np.full((1, 4), -1, np.float32)).tolist() == [[0] * 4]
