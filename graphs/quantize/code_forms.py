"""Codes as each form of a graph has them: what is planned once is laid out as ONNX Runtime runs it, or engines do."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from graphs.names import made_role
from graphs.quantize.attention_outputs import project_floats
from graphs.quantize.merging import merge_quantizers
from graphs.quantize.parted_gemms import part_gemms
from graphs.quantize.product_codes import drop_product_codes, join_product_steps

BEHIND = frozenset({"rows_back", "biased", "joined", "scaled", "shaped", "product_back"})
"""Roles of what a rewrite puts behind an integer product."""


@dataclass(frozen=True)
class FormedCodes:
    """What became of GEMMs that were chosen for codes, by their modules: those `in_floats`, and those whose products
    are handed on as codes."""

    in_floats: Sequence[str] = ()
    coded_products: Sequence[str] = ()


def form_codes(graph: gs.Graph, *, for_engines: bool, wide: Collection[str] = ()) -> FormedCodes:
    """In place; needs inferred shapes, and does nothing where there are no codes. Tensors named in `wide` are beyond
    half (see `wide_products`)."""
    if not for_engines:
        drop_product_codes(graph)
        part_gemms(graph)
        return FormedCodes()
    floats = project_floats(graph, wide)
    merge_quantizers(graph)
    return FormedCodes(floats, join_product_steps(graph))


def wide_products(graph: gs.Graph, wide: Mapping[str, str]) -> dict[str, str]:
    """`wide`, tensor -> why, was told of the graph before it had codes: what lies between an integer product and such a
    tensor, for its rows and a shift, is as large."""
    found = dict(wide)
    for node in reversed(graph.toposort().nodes):
        if made_role(str(node.name), "quantize") in BEHIND and node.outputs[0].name in found:
            found[str(node.inputs[0].name)] = found[node.outputs[0].name]
    return found
