"""Taps: samples from inside a graph, in FP32 whatever the tensor's type, and reasons where there is none."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from graphs.observe.sites import Site
from graphs.observe.tap_samples import Sample
from graphs.observe.taps import ABSENT, UNUSED, Tap, TappedModel, add_taps

TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
model (float[batch,6,4] x) => (float[batch,6,4] out)
{
  low = Cast <to = 10> (x)
  doubled = Add(low, low)
  forgotten = Mul(doubled, doubled)
  out = Cast <to = 1> (doubled)
}
"""


def _site(tensor: str, *shape: int) -> Site:
    return Site(tensor=tensor, module="m", group="m", shape=shape)


def _tapped(*taps: Tap) -> TappedModel:
    return add_taps(onnx.parser.parse_model(TEXT), taps)


def test_a_tap_samples_what_the_graph_makes(rng: np.random.Generator) -> None:
    import onnxruntime

    tapped = _tapped(Tap(_site("doubled", 6, 4), 3))
    x = rng.standard_normal((2, 6, 4)).astype(np.float32)
    session = onnxruntime.InferenceSession(tapped.model.SerializeToString(), providers=["CPUExecutionProvider"])
    out, values, norms = session.run(["out", *tapped.outputs[0]], {"x": x})
    expected = Sample.of(out, 10_000).first_channels(3)
    np.testing.assert_array_equal(values, expected.values)
    np.testing.assert_allclose(norms, expected.norms, rtol=1e-6)


@pytest.mark.parametrize(
    ("site", "reason"),
    [
        (_site("gone", 6, 4), ABSENT),
        (_site("forgotten", 6, 4), UNUSED),
        (_site("doubled", 7, 4), "its shape is [6, 4], expected [7, 4]"),
    ],
)
def test_what_cannot_be_looked_at_says_why(site: Site, reason: str) -> None:
    tapped = _tapped(Tap(site, 3))
    assert tapped.lost == {0: reason} and tapped.outputs == {}


def test_the_model_stays_as_it_was() -> None:
    model = onnx.parser.parse_model(TEXT)
    before = model.SerializeToString()
    add_taps(model, [Tap(_site("doubled", 6, 4), 3)])
    assert model.SerializeToString() == before
