"""Why attentions stay in several kernels: read from the graph, and as the engine builder really does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from dsr_export.backends.tensorrt.build import build_engine
from dsr_export.config import BatchRange
from dsr_export.engine_schedule.graph_sites import GraphSites
from dsr_export.engine_schedule.unfused import AttentionSite, in_words, unfused_because
from graphs.targets import target
from tests.backends.tiny_models import parse, specs


def _model(width: int, keys: int = 16, kind: str = "float16", images: str = "2", heads: int = 2) -> onnx.ModelProto:
    """Heads over 16 tokens and `keys` others, spelt out, in the type `kind`."""
    lead = f"{images},{heads}"
    signature = f"({kind}[{lead},16,{width}] q, {kind}[{lead},{width},{keys}] k, {kind}[{lead},{keys},{width}] v)"
    body = "m = MatMul(q, k) w = Cast<to=1>(m) p = Softmax<axis=-1>(w) h = CastLike(p, v) y = MatMul(h, v)"
    model = parse(
        f"{signature} => ({kind}[{lead},16,{width}] y)", body.replace("CastLike(p, v)", f"Cast<to={_NUMBER[kind]}>(p)")
    )
    return onnx.shape_inference.infer_shapes(model)


_NUMBER = {"float16": onnx.TensorProto.FLOAT16, "float": onnx.TensorProto.FLOAT}


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (_model(8), "its heads are 8 wide, and widths from 9 to 256 are fused"),
        (_model(320), "its heads are 320 wide"),
        (_model(64, kind="float"), "it computes in FLOAT, and only half precision is fused"),
        (_model(64, keys=1), "there is one key"),
        (_model(64, images="1", heads=1), "it is one head of one image"),
        (_model(64, images="N", heads=1), "it is one head of one image"),
        (_model(64, images="N", heads=2), None),
        (_model(64, images="2", heads=1), "it has one head, which is fused in some surroundings only"),
        (_model(64), None),
    ],
)
def test_the_reason_is_read_from_the_graph(model: onnx.ModelProto, reason: str | None) -> None:
    sites = GraphSites(model)
    (name,) = sites.attentions()
    told = unfused_because(sites.attention(name), largest=1)
    assert told is None if reason is None else str(told).startswith(reason)


def test_a_graph_that_does_not_tell_gives_no_reason() -> None:
    assert unfused_because(AttentionSite("a"), largest=1) is None
    operator = parse(
        "(float[2,8,8] q, float[2,8,8] k, float[2,8,8] v) => (float[2,8,8] y)", "y = Attention(q, k, v)", opset=23
    )
    sites = GraphSites(operator)
    assert unfused_because(sites.attention(sites.attentions()[0]), largest=1) is None


def test_one_head_of_one_image_is_not_said_where_more_images_fit() -> None:
    sites = GraphSites(_model(64, images="N", heads=1))
    assert str(unfused_because(sites.attention(sites.attentions()[0]), largest=2)).startswith("it has one head")


def test_equal_reasons_are_said_once() -> None:
    because = {"a": "it is small", "b": "it is small"}
    assert in_words(["a", "b", "c"], because) == "2 because it is small; 1 for no reason that is known"


@pytest.mark.parametrize(("width", "fused"), [(8, 0), (9, 1), (256, 1), (264, 0)])
def test_the_builder_fuses_the_widths_that_are_named(width: int, fused: int, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the rtx extra")
    path = tmp_path / "model.onnx"
    onnx.save(_model(width), path)
    facts = build_engine(path, target("rtx"), batch=BatchRange(2, 2, 2), inputs=specs(path)).facts
    attention = facts["schedule"]["attention"]
    assert (attention["fused"], len(attention["because"])) == (fused, 1 - fused)


@pytest.mark.parametrize(("batch", "fused"), [((1, 1, 1), 0), ((1, 1, 2), 1), ((2, 2, 2), 1)])
def test_the_builder_fuses_one_head_of_more_images_than_one(
    batch: tuple[int, int, int], fused: int, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the rtx extra")
    path = tmp_path / "model.onnx"
    onnx.save(_model(64, images="N", heads=1), path)
    facts = build_engine(path, target("rtx"), batch=BatchRange(*batch), inputs=specs(path)).facts
    attention = facts["schedule"]["attention"]
    assert (attention["fused"], len(attention["because"])) == (fused, 1 - fused)


@pytest.mark.parametrize(("heads", "said"), [(1, "it has one head"), (2, None)])
def test_one_head_that_is_not_fused_between_its_projections_is_told(
    heads: int, said: str | None, tmp_path: Path
) -> None:
    """A block of a transformer: of two images, so that one head of one image is no reason."""
    pytest.importorskip("tensorrt_rtx", reason="needs the rtx extra")
    path = tmp_path / "model.onnx"
    onnx.save(_gated_block(heads), path)
    facts = build_engine(path, target("rtx"), batch=BatchRange(1, 2, 2), inputs=specs(path)).facts
    attention = facts["schedule"]["attention"]
    reasons = list(attention["because"].values())
    assert attention["fused"] == (said is None)
    assert all(reason.startswith(said) for reason in reasons) if said else not reasons


def _gated_block(heads: int) -> onnx.ModelProto:
    """x + gate * attention(x) of 16 tokens, 64 wide, as PyTorch is traced: projections, heads, softmax in FP32."""
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(0, 0.1, (64, 64)).astype(np.float16) for name in "qkvo"}
    split = [
        f"{n}1 = MatMul(x, w{n}) {n}2 = Reshape({n}1, heads) {n}3 = Transpose<perm=[{order}]>({n}2)"
        for n, order in zip("qkv", ("0,2,1,3", "0,2,3,1", "0,2,1,3"), strict=True)
    ]
    body = "m = MatMul(q3, k3) f = Cast<to=1>(m) p = Softmax<axis=-1>(f) h = Cast<to=10>(p) a = MatMul(h, v3)"
    body += " t = Transpose<perm=[0,2,1,3]>(a) r = Reshape(t, whole) o = MatMul(r, wo) s = Mul(o, g) y = Add(x, s)"
    model = parse("(float16[N,16,64] x, float16[N,1,64] g) => (float16[N,16,64] y)", " ".join([*split, body]))
    arrays = {f"w{name}": value for name, value in weights.items()}
    arrays |= {"heads": np.array([0, 16, heads, 64 // heads]), "whole": np.array([0, 16, 64])}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in arrays.items())
    return onnx.shape_inference.infer_shapes(model)
