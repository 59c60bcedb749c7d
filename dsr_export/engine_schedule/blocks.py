"""Which block of the model a launch belongs to, by the names of its ONNX nodes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from graphs.names import ROOT, made_name, module_of

_NUMBERED = re.compile(r"(?:[^.]+\.)*?[^.]*?\.\d+(?=\.|$)")

_CAST = made_name("type", "cast", "")


def blocks_of(nodes: Iterable[str]) -> frozenset[str]:
    """`blocks.3` of `blocks.3.attn`: numbered modules with modules inside. A layer of a sequence, `mlp.1`, is none."""
    modules = {_module(node) for node in nodes}
    found = ((each, match[0]) for each in modules if (match := _NUMBERED.match(each)) is not None)
    return frozenset(block for module, block in found if module.startswith(f"{block}."))


def block_of_most(nodes: Iterable[str], blocks: frozenset[str]) -> str | None:
    """The block that at least half of its nodes stand in; None where there is none, as for a GEMM of all blocks.

    Nodes in no block (`root`, a rotary embedding's table) count where there are no others: they serve all blocks.
    """
    modules = [_module(node) for node in nodes]
    inside = [found[0] for each in modules if (found := _NUMBERED.match(each)) is not None and found[0] in blocks]
    others = [each.split(".")[0] for each in modules if each != ROOT]
    counted = inside or others
    if not counted:
        return ROOT if modules else None
    name, count = Counter(counted).most_common(1)[0]
    return name if 2 * count >= len(counted) else None


def _module(node: str) -> str:
    """A cast's name has that of its tensor behind: `dsr/type/cast/blocks.3/Mul.float`, or `dsr/type/cast/x.float`."""
    return module_of(node.removeprefix(_CAST)).rsplit("/", 1)[-1]
