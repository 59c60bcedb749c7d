"""Which residual Add follows which: directly, or past what changes rows in mid-stream."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx_graphsurgeon as gs

from graphs.errors import ExportError
from graphs.names import module_of
from graphs.rewrite import Miss, near
from graphs.structure.flow import axis_of, describe, producer, source
from graphs.structure.residual_adds import ResidualAdd

IN_PYTORCH = (
    "sites are inserted into pre-norm transformers; declare them in PyTorch (dsr_export.registers) "
    "and name the model as package.module:callable"
)
ONE_STREAM = (
    "layers would be ambiguous; export the part that is to be changed alone, "
    "or name the model as package.module:callable"
)


class ResidualChains:
    """Residual Adds and which one comes before which."""

    def __init__(self, adds: Sequence[ResidualAdd], misses: Sequence[Miss]) -> None:
        self._adds, self._missed = adds, {miss.node: miss for miss in misses}
        self._by_output = {id(add.output): add for add in adds}
        self._before = {id(add.node): self._linked(add.before) for add in adds}
        self._attended = {id(add.node) for add in adds if any(each.attends for each in self.up_to(add))}
        self._before_attention = {id(each.node) for add in adds if add.attends for each in self.up_to(add)}

    def up_to(self, add: ResidualAdd) -> list[ResidualAdd]:
        """The chain that ends with `add`, in order."""
        chain = [add]
        while (before := self._before[id(chain[-1].node)]) is not None:
            chain.append(before)
        return chain[::-1]

    def without_attention(self) -> list[Miss]:
        return [
            Miss("an MLP in a chain of residuals without attention", add.node.name)
            for add in self._adds
            if id(add.node) not in self._attended | self._before_attention
        ]

    def ends(self, outputs: Iterable[gs.Tensor]) -> list[ResidualAdd]:
        """The last Adds of chains with attention on the ways up from `outputs`."""
        found, seen, frontier = [], set(), list(outputs)
        while frontier:
            tensor = frontier.pop()
            if id(tensor) in seen:
                continue
            seen.add(id(tensor))
            add = self._by_output.get(id(tensor))
            if add is not None and id(add.node) in self._attended:
                found.append(add)
            elif (maker := producer(tensor)) is not None:
                frontier.extend(maker.inputs)
        return found

    def _linked(self, tensor: gs.Tensor) -> ResidualAdd | None:
        """The Add whose tokens arrive at `tensor`, changed by nothing but rows and tables."""
        tensor = source(tensor)
        if id(tensor) in self._by_output:
            return self._by_output[id(tensor)]
        maker = producer(tensor)
        if maker is None:
            return None
        found = {id(add.node): add for each in _passed_rows(maker) if (add := self._linked(each)) is not None}
        if len(found) > 1:
            names = " and ".join(
                f"that of {module_of(add.node.name)} {describe(add.output.shape)}" for add in found.values()
            )
            raise ExportError(f"two residual streams meet at {maker.name}: {names}", hint=ONE_STREAM)
        if found and maker.name in self._missed:
            raise ExportError(
                f"the residual stream holds something else than blocks; {near([self._missed[maker.name]])}",
                hint=IN_PYTORCH,
            )
        return next(iter(found.values()), None)


def _passed_rows(node: gs.Node) -> list[gs.Tensor]:
    """The inputs whose token rows `node` hands on."""
    shape = node.outputs[0].shape
    if shape is None or len(shape) != 3:
        return []
    if node.op == "Concat" and axis_of(node, 3) == 1:
        return list(node.inputs)
    if node.op in ("Slice", "Split") and node.inputs[0].shape is not None and node.inputs[0].shape[2] == shape[2]:
        return [node.inputs[0]]
    return [each for each in node.inputs if each.shape == shape] if node.op == "Add" else []
