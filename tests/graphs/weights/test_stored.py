"""Weights that stay in their file give the same graphs as weights in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
import pytest

from graphs.artifacts import OptimizedModel
from graphs.files import load_graph, save_graph
from graphs.mixed_precision.islands import PrecisionPolicy
from graphs.mixed_precision.typed import assign_precision
from graphs.weights.stored import StoredValues, store, stored_constants

WIDTH = 64


def _graph(rng: np.random.Generator) -> gs.Graph:
    """x -> two GEMMs; the first weight also feeds an Add that stays FP32 as a norm's would."""
    x = gs.Variable("x", np.float32, ("batch", WIDTH))
    weights = [gs.Constant(f"w{i}", rng.standard_normal((WIDTH, WIDTH)).astype(np.float32) / 8) for i in (1, 2)]
    h, out = gs.Variable("h", np.float32, ("batch", WIDTH)), gs.Variable("out", np.float32, ("batch", WIDTH))
    nodes = [
        gs.Node("MatMul", "fc1/MatMul", inputs=[x, weights[0]], outputs=[h]),
        gs.Node("MatMul", "fc2/MatMul", inputs=[h, weights[1]], outputs=[out]),
    ]
    return gs.Graph(nodes=nodes, inputs=[x], outputs=[out], opset=20)


@pytest.fixture
def external(tmp_path: Path, rng: np.random.Generator) -> Path:
    """The graph with both weights in `m.onnx.data`."""
    model = gs.export_onnx(_graph(rng), ir_version=10)
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.onnx.data", size_threshold=0)
    return tmp_path / "m.onnx"


def _run(path: Path) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": np.ones((2, WIDTH), np.float32)})[0])


def test_loading_reads_no_weight(external: Path) -> None:
    constants = stored_constants(load_graph(external))
    assert [constant.name for constant in constants] == ["w1", "w2"]
    assert all(isinstance(constant._values, StoredValues) for constant in constants)


def test_values_can_be_asked_for(external: Path) -> None:
    (first, _) = stored_constants(load_graph(external))
    np.testing.assert_array_equal(first.values, _graph(np.random.default_rng(0)).tensors()["w1"].values)


def test_an_unchanged_data_file_is_linked(external: Path, tmp_path: Path) -> None:
    save_graph(load_graph(external), tmp_path / "next.onnx")
    assert (tmp_path / "next.onnx.data").samefile(tmp_path / "m.onnx.data")
    np.testing.assert_array_equal(_run(tmp_path / "next.onnx"), _run(external))


def test_a_linked_data_file_can_be_read_and_converted(external: Path, tmp_path: Path) -> None:
    save_graph(load_graph(external), tmp_path / "next.onnx")
    typed, _ = assign_precision(
        OptimizedModel(path=tmp_path / "next.onnx"), tmp_path / "half.onnx", "fp16", PrecisionPolicy()
    )
    np.testing.assert_allclose(_run(typed.path), _run(external), atol=2e-2)


def test_what_ships_is_one_file_where_that_is_handy(
    external: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_graph(load_graph(external), tmp_path / "one.onnx", ships=True)
    assert not (tmp_path / "one.onnx.data").exists()
    np.testing.assert_array_equal(_run(tmp_path / "one.onnx"), _run(external))
    monkeypatch.setattr("graphs.files.ONE_FILE_BELOW", 4 * WIDTH**2)
    save_graph(load_graph(external), tmp_path / "two.onnx", ships=True)
    assert (tmp_path / "two.onnx.data").is_file()


def test_columns_are_cut_from_what_is_divided_and_converted(external: Path) -> None:
    values = stored_constants(load_graph(external))[0]._values
    whole, rows = values.load(), np.arange(1, WIDTH + 1, dtype=np.float32)[:, None]
    part = values.divided(rows).columns(slice(8, 24)).divided(np.asarray(-1)).as_type(onnx.TensorProto.FLOAT16)
    np.testing.assert_array_equal(part.load(), (whole / -rows)[:, 8:24].astype(np.float16))
    assert (list(part.tensor.dims), part.size_in_bytes) == ([WIDTH, 16], WIDTH * 16 * 2)


def test_values_are_found_whatever_file_they_were_written_to_before(external: Path, tmp_path: Path) -> None:
    """As codes of a calibration are, by each graph that the budget measures: first among others, then by a link."""
    first, second = load_graph(external).tensors(), load_graph(external)
    first["w1"]._values = first["w1"]._values.columns(slice(8))  # less of it: `w2` lies elsewhere
    second.tensors()["w2"]._values = first["w2"]._values
    store([first["w1"], first["w2"]], tmp_path / "mixed.data")
    save_graph(second, tmp_path / "linked.onnx")
    assert (tmp_path / "linked.onnx.data").samefile(external.with_name("m.onnx.data"))
    np.testing.assert_array_equal(_run(tmp_path / "linked.onnx"), _run(external))


def test_an_old_data_file_is_replaced_and_its_other_names_are_not(external: Path, tmp_path: Path) -> None:
    (tmp_path / "next.onnx.data").write_bytes(b"old")
    (tmp_path / "keep").hardlink_to(tmp_path / "next.onnx.data")
    save_graph(load_graph(external), tmp_path / "next.onnx")
    assert (tmp_path / "keep").read_bytes() == b"old"


@pytest.mark.parametrize("fp32_modules", [(), ("fc2",)])
def test_typing_converts_on_the_way_to_the_new_file(
    fp32_modules: tuple[str, ...], external: Path, tmp_path: Path
) -> None:
    policy = PrecisionPolicy(fp32_modules=fp32_modules)
    typed, _ = assign_precision(OptimizedModel(path=external), tmp_path / "half.onnx", "fp16", policy)
    half, full = 2 * WIDTH**2, 4 * WIDTH**2
    size = (tmp_path / "half.onnx.data").stat().st_size
    assert size == 4096 * -(-half // 4096) + (full if fp32_modules else half)
    np.testing.assert_allclose(_run(typed.path), _run(external), atol=2e-2)
    assert not np.array_equal(_run(typed.path), _run(external))


def test_a_replaced_constant_leaves_the_others_where_they_are(external: Path, tmp_path: Path) -> None:
    graph = load_graph(external)
    graph.tensors()["w2"].values = np.zeros((WIDTH, WIDTH), np.float32)
    save_graph(graph, tmp_path / "next.onnx")
    assert not _run(tmp_path / "next.onnx").any()
