"""Codes of four bits in files: as ONNX packs them, whatever their number is, and back again."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from graphs.files import imported, load_graph, save_graph
from graphs.opsets import raise_opset
from graphs.weights.packed import HALVES, PackedValues, packed, packed_size, unpacked
from graphs.weights.stored import StoredValues

KINDS = {
    TensorProto.INT4: ml_dtypes.int4,
    TensorProto.UINT4: ml_dtypes.uint4,
    TensorProto.FLOAT4E2M1: ml_dtypes.float4_e2m1fn,
}
HALF_KINDS = pytest.mark.parametrize("kind", sorted(HALVES), ids=TensorProto.DataType.Name)


def _codes(kind: int, count: int, seed: int = 0) -> np.ndarray:
    """Any of the sixteen, in a byte each."""
    raw = np.random.default_rng(seed).integers(0, 16, count).astype(np.uint8)
    return unpacked(np.frombuffer(_pairs(raw), np.uint8), kind, count)


def _pairs(raw: np.ndarray) -> bytes:
    """Written out: the first of two in the lower half, and 0 beside an odd last one."""
    even = [*raw.tolist(), *([0] * (len(raw) % 2))]
    return bytes(even[i] + 16 * even[i + 1] for i in range(0, len(even), 2))


def test_the_kinds_are_those_of_onnx() -> None:
    assert KINDS.keys() == HALVES
    assert all(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind)) == own for kind, own in KINDS.items())


@given(kind=st.sampled_from(sorted(HALVES)), raw=st.lists(st.integers(0, 15), max_size=33))
def test_packing_is_onnx_own(kind: int, raw: list[int]) -> None:
    codes = unpacked(np.frombuffer(_pairs(np.array(raw, np.uint8)), np.uint8), kind, len(raw))
    assert bytes(packed(codes)) == _pairs(np.array(raw, np.uint8))
    assert packed_size(len(raw), kind) == len(bytes(packed(codes)))
    theirs = numpy_helper.from_array(codes, "codes")
    assert (theirs.data_type, theirs.raw_data) == (kind, bytes(packed(codes)))
    np.testing.assert_array_equal(numpy_helper.to_array(theirs).astype(np.float32), codes.astype(np.float32))


@HALF_KINDS
def test_all_sixteen_codes_are_numbers_of_their_type(kind: int) -> None:
    every = np.arange(16, dtype=np.uint8)
    codes = unpacked(np.frombuffer(_pairs(every), np.uint8), kind, 16)
    wanted = {
        TensorProto.INT4: [*range(8), *range(-8, 0)],
        TensorProto.UINT4: list(range(16)),
        TensorProto.FLOAT4E2M1: [0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6],
    }[kind]  # type: ignore[index]
    assert codes.astype(np.float32).tolist() == wanted


@given(values=st.lists(st.floats(-1e3, 1e3, width=32), max_size=9))
def test_wider_types_are_written_as_they_are(values: list[float]) -> None:
    flat = np.array(values, np.float32)
    assert bytes(packed(flat)) == flat.tobytes()
    np.testing.assert_array_equal(unpacked(np.frombuffer(flat.tobytes(), np.uint8), TensorProto.FLOAT, len(flat)), flat)


def test_a_turned_array_is_packed_in_its_own_order() -> None:
    codes = _codes(TensorProto.INT4, 15).reshape(3, 5)
    assert bytes(packed(codes.T)) == bytes(packed(np.ascontiguousarray(codes.T)))


@HALF_KINDS
def test_constants_in_memory_come_back(kind: int) -> None:
    codes = _codes(kind, 21).reshape(3, 7)
    values = PackedValues("w", codes)
    assert (values.shape, values.dtype, values.nbytes) == ((3, 7), codes.dtype, 21)
    np.testing.assert_array_equal(values.load().view(np.uint8), codes.view(np.uint8))


def _graph(constants: dict[str, np.ndarray]) -> gs.Graph:
    """Each constant is dequantised, and so an output."""
    graph = gs.Graph(opset=20)
    for name, values in constants.items():
        codes, scale = gs.Constant(name, values), gs.Constant(f"{name}/scale", np.array(2, np.float32))
        made = gs.Variable(f"{name}/out", np.float32, values.shape)
        graph.nodes.append(gs.Node("DequantizeLinear", f"{name}/DQ", inputs=[codes, scale], outputs=[made]))
        graph.outputs.append(made)
    raise_opset(graph, 23)
    return graph


@pytest.fixture
def constants() -> dict[str, np.ndarray]:
    return {TensorProto.DataType.Name(kind): _codes(kind, 35, seed=kind).reshape(5, 7) for kind in sorted(HALVES)}


def _same(model: Path, constants: dict[str, np.ndarray]) -> None:
    """By onnx's own reader, which refuses data files of several links."""
    data = model.with_name(f"{model.name}.data")
    if data.exists():
        content = data.read_bytes()
        data.unlink()
        data.write_bytes(content)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(model).graph.initializer}
    for name, values in constants.items():
        assert stored[name].dtype == values.dtype
        np.testing.assert_array_equal(stored[name].astype(np.float32), values.astype(np.float32))


def test_a_graph_holds_two_codes_to_a_byte_and_any_reader_finds_them(
    tmp_path: Path, constants: dict[str, np.ndarray], capfd: pytest.CaptureFixture[str]
) -> None:
    save_graph(_graph(constants), tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    onnx.checker.check_model(model)
    assert {len(tensor.raw_data) for tensor in model.graph.initializer if tensor.name in constants} == {18}
    _same(tmp_path / "m.onnx", constants)
    save_graph(load_graph(tmp_path / "m.onnx"), tmp_path / "again.onnx")
    _same(tmp_path / "again.onnx", constants)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("changed", [False, True], ids=["linked", "written anew"])
def test_external_codes_are_read_and_written(tmp_path: Path, constants: dict[str, np.ndarray], changed: bool) -> None:
    save_graph(_graph(constants), tmp_path / "m.onnx")
    onnx.save(
        onnx.load(tmp_path / "m.onnx"),
        tmp_path / "e.onnx",
        save_as_external_data=True,
        location="e.onnx.data",
        size_threshold=0,
    )
    graph = load_graph(tmp_path / "e.onnx")
    for name, values in constants.items():
        stored = graph.tensors()[name]._values
        assert isinstance(stored, StoredValues)
        assert (stored.size_in_bytes, stored.nbytes) == (18, 35)
        np.testing.assert_array_equal(stored.load().view(np.uint8), values.view(np.uint8))
    if changed:
        scale = graph.tensors()["INT4/scale"]
        scale._values = scale._values.divided(np.asarray(2, np.float32))
    save_graph(graph, tmp_path / "next.onnx")
    assert (tmp_path / "next.onnx.data").samefile(tmp_path / "e.onnx.data") != changed
    _same(tmp_path / "next.onnx", constants)
    save_graph(load_graph(tmp_path / "next.onnx"), tmp_path / "one.onnx", ships=True)
    assert not (tmp_path / "one.onnx.data").exists()
    _same(tmp_path / "one.onnx", constants)


def test_columns_of_stored_codes_are_cut(tmp_path: Path, constants: dict[str, np.ndarray]) -> None:
    save_graph(_graph(constants), tmp_path / "m.onnx")
    onnx.save(
        onnx.load(tmp_path / "m.onnx"), tmp_path / "e.onnx", save_as_external_data=True, location="d", size_threshold=0
    )
    stored = load_graph(tmp_path / "e.onnx").tensors()["INT4"]._values
    part = stored.columns(slice(1, 4))
    np.testing.assert_array_equal(part.load().astype(int), constants["INT4"][:, 1:4].astype(int))
    assert part.size_in_bytes == 8


def test_an_imported_graph_has_types_of_arrays(constants: dict[str, np.ndarray], tmp_path: Path) -> None:
    save_graph(_graph(constants), tmp_path / "m.onnx")
    graph = imported(onnx.load(tmp_path / "m.onnx"), tmp_path)
    assert {name: graph.tensors()[name].dtype for name in constants} == {n: v.dtype for n, v in constants.items()}
