"""The way to a large angle is FP32 from the inputs on; small angles and features are left alone."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphs.mixed_precision.angles import angle_nodes


def _graph(width: int) -> gs.Graph:
    """x [batch, width] -> Tanh -> MatMul -> Mul -> Reshape -> Sin."""
    sizes = {"x": width, "t": width, "p": 32, "s": 32, "r": 32, "out": 32}
    x, t, p, s, r, out = (gs.Variable(name, np.float32, ("batch", size)) for name, size in sizes.items())
    weight, scale = gs.Constant("w", np.ones((width, 32), np.float32)), gs.Constant("c", np.array(1000, np.float32))
    shape = gs.Constant("shape", np.array([-1, 32]))
    nodes = [
        gs.Node("Tanh", "tanh", inputs=[x], outputs=[t]),
        gs.Node("MatMul", "product", inputs=[t, weight], outputs=[p]),
        gs.Node("Mul", "scale", inputs=[p, scale], outputs=[s]),
        gs.Node("Reshape", "shape", inputs=[s, shape], outputs=[r]),
        gs.Node("Sin", "sin", inputs=[r], outputs=[out]),
    ]
    return gs.Graph(nodes=nodes, inputs=[x], outputs=[out])


def test_an_outer_product_of_coordinates_is_followed_to_the_inputs() -> None:
    assert angle_nodes(_graph(2), {"r": 800.0}) == {"tanh", "product", "scale", "shape"}


def test_a_gemm_over_features_is_the_last_that_is_kept() -> None:
    assert angle_nodes(_graph(64), {"r": 800.0}) == {"product", "scale", "shape"}


def test_a_small_angle_needs_nothing_and_an_unmeasured_one_counts_as_large() -> None:
    assert angle_nodes(_graph(2), {"r": 3.0}) == set()
    assert "scale" in angle_nodes(_graph(2), {})
