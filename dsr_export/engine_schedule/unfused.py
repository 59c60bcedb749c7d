"""Why an attention of a graph stays in several kernels, where its sizes and types tell.

The widths are those that TensorRT-RTX 1.7 fused in half precision, tried from 4 to 512 with and without masks; the
number of tokens made no difference from 2 up. One head of several images was fused in some modules and not in others
(often not where the engine serves a batch of 1 too); two heads in its place were.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

NARROWEST, WIDEST = 9, 256
_HALF = frozenset({"FLOAT16", "BFLOAT16"})


@dataclass(frozen=True)
class AttentionSite:
    """What a graph says of one attention; None where it does not tell.

    `widths` are those of a head's queries and of its values; `type` is ONNX's name of what softmax computes in.
    `leading` are the sizes in front of a score's two, images and heads; of them None is the batch.
    """

    node: str
    type: str | None = None
    widths: tuple[int | None, int | None] = (None, None)
    keys: int | None = None
    leading: tuple[int | None, ...] | None = None


def unfused_because(site: AttentionSite, largest: int) -> str | None:
    """The reason for which no kernel holds all of it in an engine for batches up to `largest`; None for none known.

    Asked of what is not fused: some that have the last reason are.
    """
    if site.type is not None and site.type not in _HALF:
        return f"it computes in {site.type}, and only half precision is fused"
    outside = [width for width in site.widths if width is not None and not NARROWEST <= width <= WIDEST]
    if outside:
        return f"its heads are {outside[0]} wide, and widths from {NARROWEST} to {WIDEST} are fused"
    if site.keys == 1:
        return "there is one key, so that there is nothing to attend to"
    if site.leading is not None and math.prod(largest if size is None else size for size in site.leading) == 1:
        return "it is one head of one image, and what is fused has more (a batch of up to 2 can be enough)"
    if site.leading is not None and len(site.leading) > 1 and site.leading[-1] == 1:
        return "it has one head, which is fused in some surroundings only; the same with two heads is"
    return None


def in_words(nodes: list[str], because: Mapping[str, str]) -> str:
    """`2 because its heads are 8 wide, ...; 1 for no reason that is known`: of the attentions `nodes`."""
    reasons = [because.get(node) for node in nodes]
    known = [f"{reasons.count(each)} because {each}" for each in dict.fromkeys(reasons) if each is not None]
    unknown = reasons.count(None)
    return "; ".join([*known, *([f"{unknown} for no reason that is known"] if unknown else [])])
