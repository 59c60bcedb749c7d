"""A graph at a later opset, where a type that it is given needs one: what it computes stays what it is.

Between the opset of our graphs and those of four-bit codes one operator has changed its meaning: from 21 on
GroupNormalization scales each channel, before that each group. All others only take more types.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphs.errors import ExportError

BY_CHANNEL = 21  # the opset from which on GroupNormalization has a scale for each


def raise_opset(graph: gs.Graph, version: int) -> None:
    """Makes it the graph's opset, where that is older, in place.

    Raises:
        ExportError: a GroupNormalization whose channels are not known.
    """
    domains = [domain for domain in graph.import_domains or () if domain.domain in ("", "ai.onnx")]
    before = domains[0].version if domains else int(graph.opset)
    if before < BY_CHANNEL <= version:
        for node in graph.nodes:
            if node.op == "GroupNormalization" and node.domain in (None, "", "ai.onnx"):
                _scale_channels(node)
    graph.opset = max(version, before)
    for domain in domains:
        domain.version = graph.opset


def _scale_channels(node: gs.Node) -> None:
    """A scale and a bias for each channel, where they were for each group."""
    x, *scales = node.inputs
    channels, groups = x.shape[1] if x.shape and len(x.shape) > 1 else None, node.attrs["num_groups"]
    if not isinstance(channels, int) or channels % groups or not all(isinstance(each, gs.Constant) for each in scales):
        raise ExportError(
            f"{node.name}: GroupNormalization scales groups before opset {BY_CHANNEL} and channels from then on, and "
            "its channels or scales are not known",
            hint="write it as Reshape, InstanceNormalization and Mul, as PyTorch's exporter does",
        )
    for i, each in enumerate(scales, 1):
        values = np.repeat(each.values, channels // groups)
        node.inputs[i] = gs.Constant(f"{node.name}/{('scale', 'bias')[i - 1]}_by_channel", values)
