"""The residual stream of a pre-norm transformer, found by structure: its blocks, in order, and what nearly was one.

    tokens -> [Add(tokens, attention(norm(tokens)))]+ -> Add(tokens, mlp(norm(tokens))) -> ... -> output

A block ends with its MLP. Where no MLP has a residual of its own (it runs beside the attention), each Add is a block.
Blocks are linked directly, or by what changes the tokens in mid-stream: a Concat or Slice of rows, a sum with a table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from graphs.errors import ExportError
from graphs.names import module_of
from graphs.rewrite import Miss, near
from graphs.structure.flow import Flow, describe, source
from graphs.structure.mlp_activation import Activation, find_activation
from graphs.structure.residual_adds import ResidualAdd, match_residual_add, normed_adds
from graphs.structure.residual_chains import IN_PYTORCH, ONE_STREAM, ResidualChains


@dataclass(frozen=True, eq=False)
class Block:
    """`entry` -> `output` [batch, tokens, channels]. `name` is its module, or its last node where modules repeat."""

    name: str
    entry: gs.Tensor
    output: gs.Variable
    tokens: int
    channels: int
    activation: Activation | Miss


@dataclass(frozen=True, eq=False)
class Stream:
    """Blocks in order, and the near misses of the whole graph."""

    blocks: tuple[Block, ...]
    misses: tuple[Miss, ...]

    @property
    def names(self) -> str:
        """`12 blocks of [batch, 256, 768]: blocks.0 to blocks.11`."""
        first, last = self.blocks[0], self.blocks[-1]
        shapes = ", ".join(dict.fromkeys(describe(block.output.shape) for block in self.blocks))
        which = first.name if len(self.blocks) == 1 else f"{first.name} to {last.name}"
        return f"{len(self.blocks)} block{'s' * (len(self.blocks) > 1)} of {shapes}: {which}"


def find_stream(graph: gs.Graph) -> Stream:
    """The stream that reaches the outputs of a pinned graph.

    Raises:
        ExportError: there is none, or more than one, or it is made of something else than blocks; with near misses.
    """
    flow = Flow(graph)
    results = [result for node in graph.nodes if (result := match_residual_add(flow, node)) is not None]
    adds, misses = normed_adds(results)
    chains = ResidualChains(adds, misses)
    ends = chains.ends(graph.outputs)
    misses += chains.without_attention()
    if not ends:
        raise ExportError(
            f"no residual stream of transformer blocks reaches the outputs; {near(misses)}", hint=IN_PYTORCH
        )
    found = {id(end.node): chains.up_to(end) for end in ends}
    longest = max(found.values(), key=len)
    inside = {id(add.node) for add in longest}
    if any(id(end.node) not in inside for end in ends):
        both = "; ".join(_Numbered(flow, chain).stream(misses).names for chain in found.values())
        raise ExportError(f"{len(found)} residual streams reach the outputs: {both}", hint=ONE_STREAM)
    return _Numbered(flow, longest).stream(misses)


class _Numbered:
    """One chain of Adds as blocks."""

    def __init__(self, flow: Flow, chain: Sequence[ResidualAdd]) -> None:
        first = next(i for i, add in enumerate(chain) if add.attends)
        self._flow, self._chain = flow, list(chain)
        self._leading = chain[:first]  # residual MLPs before any attention: an embedder

    def stream(self, misses: Sequence[Miss]) -> Stream:
        """Raises `ExportError` where attention and MLP do not alternate."""
        blocks = self._blocks()
        modules = Counter(module_of(adds[-1].node.name) for adds in blocks)
        named = [self._block(adds, modules) for adds in blocks]
        early = [Miss("an MLP before the first attention: no block", add.node.name) for add in self._leading]
        inner = [block.activation for block in named if isinstance(block.activation, Miss)]
        return Stream(tuple(named), (*misses, *early, *inner))

    def _blocks(self) -> list[list[ResidualAdd]]:
        blocks: list[list[ResidualAdd]] = []
        for run in self._runs():
            if all(add.attends for add in run):
                blocks += [[add] for add in run]
                continue
            open_block: list[ResidualAdd] = []
            for add in run:
                open_block.append(add)
                if not add.attends:
                    blocks.append(open_block)
                    open_block = []
            _check_alternation(blocks, open_block)
        return blocks

    def _runs(self) -> list[list[ResidualAdd]]:
        """Split where the number of tokens changes: a double-stream part, then a single-stream one."""
        runs: list[list[ResidualAdd]] = []
        for add in self._chain[len(self._leading) :]:
            direct = bool(runs) and source(add.before) is runs[-1][-1].output
            if direct:
                runs[-1].append(add)
            else:
                runs.append([add])
        return runs

    def _block(self, adds: Sequence[ResidualAdd], modules: Counter[str]) -> Block:
        last, module = adds[-1], module_of(adds[-1].node.name)
        _, tokens, channels = last.output.shape
        return Block(
            name=module if modules[module] == 1 else last.node.name,
            entry=adds[0].before,
            output=last.output,
            tokens=int(tokens),
            channels=int(channels),
            activation=find_activation(self._flow, last),
        )


def _check_alternation(blocks: Sequence[Sequence[ResidualAdd]], rest: Sequence[ResidualAdd]) -> None:
    """Every block ends with its one MLP and begins with attention."""
    bare = [block[0] for block in blocks if len(block) == 1 and not block[0].attends]
    problems = [Miss("an MLP without attention before it", add.node.name) for add in bare]
    problems += [Miss("attention without an MLP behind it", add.node.name) for add in rest[:1]]
    if problems:
        raise ExportError(
            f"the residual stream is not made of blocks, attention and then an MLP; {near(problems)}", hint=IN_PYTORCH
        )
