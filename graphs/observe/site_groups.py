"""Which block each node of a graph works for: a partition in the order in which values pass through the model.

A block is a numbered module with modules inside it: `blocks.3`, `model.layers.0`. Other modules that are called from
the top (`x_embedder`, `final_layer`) are groups of their own. What has no place of its own goes where it is used:
shared rotary tables, the model's own code between two blocks. A lowered replacement belongs to the block whose tokens
it changes.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphs.names import ROOT, is_lowered, module_of

OUTPUT = "output"
"""What follows all modules; the model's own code in front of all blocks is at `ROOT`."""


def node_groups(graph: gs.Graph) -> dict[int, str]:
    """`id(node)` -> its group, for a toposorted graph."""
    return _Groups(graph).found


class _Groups:
    def __init__(self, graph: gs.Graph) -> None:
        self._nodes = list(graph.nodes)
        self._place = {id(node): i for i, node in enumerate(self._nodes)}
        paths = {module_of(node.name) for node in self._nodes if not is_lowered(node.name)}
        self.blocks = block_paths(paths)
        self._depth = min((block.count(".") - 1 for block in self.blocks), default=0)
        self.found: dict[int, str] = {}
        after, before = self._reached(), self._needed()
        for node in self._nodes:
            self._settle(node, after)
        ends = {self.found[id(node)]: i for i, node in enumerate(self._nodes) if id(node) in self.found}
        first = min(self.blocks & ends.keys(), key=lambda block: ends[block], default=None)
        for node in reversed(self._nodes):
            if id(node) not in self.found:
                self.found[id(node)] = self._used_by(node, id(node) in after, id(node) in before, first)

    def _settle(self, node: gs.Node, after: set[int]) -> None:
        """Groups that follow from a node's own name, or from what it reads."""
        if is_lowered(node.name):
            read = [self._place[id(n)] for n in _producers(node) if self.found.get(id(n)) in self.blocks]
            if read:
                self.found[id(node)] = self.found[id(self._nodes[max(read)])]
            return
        block = block_of(module_of(node.name), self.blocks)
        if block is not None:
            self.found[id(node)] = block
        elif id(node) not in after and not self._at_root(node):
            self.found[id(node)] = self._outer(node)

    def _used_by(self, node: gs.Node, after: bool, before: bool, first: str | None) -> str:
        """The earliest group that reads it; before the first block, and behind the last, a module keeps its name."""
        readers = [self.found[id(n)] for out in node.outputs for n in out.outputs]
        inside = [group for group in readers if group in self.blocks]
        if after and before and inside:
            return inside[0]
        if not self._at_root(node):
            return self._outer(node)
        if not after and (len(set(readers)) != 1 or readers[0] not in self.blocks or readers[0] == first):
            return ROOT
        return readers[0] if readers else OUTPUT

    def _at_root(self, node: gs.Node) -> bool:
        path = module_of(node.name)
        return path == ROOT or path.startswith("_") or path.count(".") < self._depth

    def _outer(self, node: gs.Node) -> str:
        return ".".join(module_of(node.name).split(".")[: self._depth + 1])

    def _reached(self) -> set[int]:
        """Nodes that a block's values reach."""
        found: set[int] = set()
        for node in self._nodes:
            lowered = is_lowered(node.name)
            inside = not lowered and block_of(module_of(node.name), self.blocks) is not None
            if inside or any(id(n) in found for n in _producers(node)):
                found.add(id(node))
        return found

    def _needed(self) -> set[int]:
        """Nodes that a block reads from, directly or not."""
        found: set[int] = set()
        for node in reversed(self._nodes):
            readers = [n for out in node.outputs for n in out.outputs]
            if any(id(n) in found or block_of(module_of(n.name), self.blocks) is not None for n in readers):
                found.add(id(node))
        return found


def block_paths(paths: set[str]) -> set[str]:
    """The numbered modules that hold others, outermost first: `blocks.3`, not `blocks.3.mlp.0` nor `head.0`."""
    numbered = {path: _numbered(path) for path in paths}
    return {block for path, block in numbered.items() if block is not None and path != block}


def block_of(path: str, blocks: set[str]) -> str | None:
    """The block that `path` lies in."""
    block = _numbered(path)
    return block if block in blocks else None


def _numbered(path: str) -> str | None:
    parts = path.split(".")
    at = next((i for i, part in enumerate(parts) if part.isdecimal()), None)
    return None if at in (None, 0) else ".".join(parts[: (at or 0) + 1])


def _producers(node: gs.Node) -> list[gs.Node]:
    return [producer for tensor in node.inputs for producer in tensor.inputs]
