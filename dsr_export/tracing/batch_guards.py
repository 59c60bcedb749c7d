"""What a traced program assumes of the batch: torch.export takes one path through the code, and guards it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from dsr_export.subject import Subject
from dsr_export.tracing.probing import Limits
from dsr_export.tracing.traced_path import traced_path

_FAR = (*range(1, 130), 192, 255, 256, 257, 511, 512, 513, 1000, 1024, 4095, 4096)
_NEAR = 4  # sizes up to here are run, where a guard fails on them


@dataclass(frozen=True)
class Guard:
    """A condition on the batch, as a sympy expression in one symbol, and the line of code that it came from."""

    condition: Any
    line: str | None

    def holds(self, size: int) -> bool:
        values = dict.fromkeys(self.condition.free_symbols, size)
        return bool(self.condition.xreplace(values).doit())


@dataclass(frozen=True)
class Decision:
    """The guards of a program. `is_constant` where one of its inputs has a fixed batch."""

    guards: tuple[Guard, ...]
    is_constant: bool

    @property
    def line(self) -> str | None:
        """Of the first guard that fixes the batch."""
        return next((guard.line for guard in self.guards if guard.line), None)


def deciding(program: ExportedProgram) -> Decision:
    """The guards on the one symbol that the first axes of the inputs are."""
    names = set(program.graph_signature.user_inputs)
    values = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    sizes = [value.shape[0] for value in values if isinstance(value, Tensor) and value.ndim]
    constant = any(not _is_free(size) for size in sizes)
    environments = {id(env): env for value in values for env in _environments(value)}
    guards = [guard for env in environments.values() for guard in env.guards]
    found = [Guard(guard.expr, guard.sloc.maybe_user_loc) for guard in guards if len(guard.expr.free_symbols) == 1]
    if constant:
        found = [guard for guard in found if _fixes(guard)] or found
    return Decision(tuple(found), constant)


def valid_sizes(subject: Subject, program: ExportedProgram, decision: Decision, size: int) -> tuple[Limits, str]:
    """The batches around `size` for which the program computes what the module does, and the line that ends them.

    A guard that fails for a small batch does not count where the program and the module agree on it all the same.
    """
    low, high = subject.batch_limits
    asked = [each for each in _FAR if low <= each and (high is None or each <= high)]
    broken = {each: guard for each in asked for guard in decision.guards if not guard.holds(each)}
    for each in [each for each in broken if each <= _NEAR]:
        if agree(subject, program, each):
            del broken[each]
    below = max((each for each in broken if each < size), default=None)
    above = min((each for each in broken if each > size), default=None)
    limits = low if below is None else below + 1, high if above is None else above - 1
    return limits, _lines(broken[each].line for each in (below, above) if each is not None)


def _lines(lines: Iterable[str | None]) -> str:
    return ", ".join(dict.fromkeys(line for line in lines if line))


def _fixes(guard: Guard) -> bool:
    return sum(guard.holds(size) for size in range(1, 64)) <= 1


def _is_free(size: Any) -> bool:
    return isinstance(size, torch.SymInt) and bool(size.node.expr.free_symbols)


def _environments(value: Any) -> list[Any]:
    mode = getattr(value, "fake_mode", None)
    return [] if mode is None or mode.shape_env is None else [mode.shape_env]


def agree(subject: Subject, program: ExportedProgram, size: int) -> bool:
    """Whether `program` computes what the module does, on a batch of this size."""
    inputs = [torch.from_numpy(value) for value in subject.example(size, seed=0).values()]
    try:
        with torch.no_grad(), traced_path():
            expected = subject.module(*(value.clone() for value in inputs))
            got = program.module(check_guards=False)(*inputs)
    except Exception:  # the user's code, or the program, refuses this size: then they do not agree on it
        return False
    left, right = (torch.utils._pytree.tree_leaves(made) for made in (expected, got))
    return len(left) == len(right) and all(_same(a, b) for a, b in zip(left, right, strict=True))


def _same(a: Any, b: Any) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True) if a.is_floating_point() else torch.equal(a, b)
