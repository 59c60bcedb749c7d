"""A module as an exported program whose batch axis is free: torch.export, asked and then checked."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch.export import Dim, ExportedProgram
from torch.export import _trace as torch_trace
from torch.fx.experimental import _config as symbolic_shapes

from dsr_export.errors import ExportError
from dsr_export.subject import Subject
from dsr_export.tracing.batch_guards import Decision, agree, deciding, valid_sizes
from dsr_export.tracing.decompositions.batch_splits import as_slices
from dsr_export.tracing.decompositions.complex_ops import on_pairs
from dsr_export.tracing.decompositions.constant_ops import folding_constants, needs_values
from dsr_export.tracing.decompositions.data_reads import DataAsTensor
from dsr_export.tracing.decompositions.mask_writes import as_choices
from dsr_export.tracing.decompositions.mixed_types import in_one_type
from dsr_export.tracing.forward_modes import one_batch, under
from dsr_export.tracing.probing import Limits
from dsr_export.tracing.rows.widened import widened
from dsr_export.tracing.trace_errors import AS_THEY_ARE, trace_error
from dsr_export.tracing.traced_path import traced_path
from dsr_export.user_code import lines as user_lines

_SIZES = (3, 5, 7, 11, 13)  # no size of its own that a model has, so that what equals the batch is the batch
_TRIED = (1, 2, 3, 5)  # batches at which rows that are computed apart must be the module's


@dataclass(frozen=True)
class Exported:
    """`limits` are the batch sizes that `program` is right for, `reason` the line that decides so, if one does."""

    program: ExportedProgram
    limits: Limits
    reason: str = ""


def export_program(subject: Subject) -> Exported:
    """The program of `subject.module`, right for every batch in `limits`, which are the subject's or narrower ones.

    Raises:
        ExportError: torch.export fails, or the batch becomes a constant; the message names the line.
    """
    attempt = _Attempt(subject)
    first = attempt.folded()
    fixed = subject.batch_limits[0] == subject.batch_limits[1]
    program = first
    if isinstance(first, Exception) or (not fixed and deciding(first).is_constant):
        second = attempt.run(strict=True)  # slower, and the only one that follows int(x.shape[0]) and len(x)
        program = first if isinstance(second, Exception) else second
    if not fixed and (isinstance(program, Exception) or deciding(program).is_constant):
        by_row = _by_row(subject, attempt)
        if by_row is not None:
            return Exported(lowered(subject.name, by_row), subject.batch_limits)
    if isinstance(program, Exception):
        raise trace_error(subject.name, program) from program
    if fixed:
        return Exported(lowered(subject.name, program), subject.batch_limits)
    return _checked(subject, lowered(subject.name, program), deciding(program))


def lowered(name: str, program: ExportedProgram) -> ExportedProgram:
    """`program` without the ops that the exporter does not know, or writes wrongly; itself where it has none.

    Raises `ExportError`, with the op and its line in the model `name`, where one of them has no other form.
    """
    try:
        with _any_size():  # half of a batch of three is one row, which must not be taken for a fixed size
            return in_one_type(as_slices(as_choices(on_pairs(program))))
    except Exception as error:  # torch runs each op again, and raises whatever it runs into
        raise trace_error(name, error) from error


@dataclass(frozen=True)
class _Attempt:
    subject: Subject

    def folded(self, *, batch: int | None = None) -> ExportedProgram | Exception:
        """Not strict, and with constants worked out where values or shapes depend on them."""
        plain = self.run(strict=False, batch=batch)
        if not isinstance(plain, Exception) and not needs_values(plain):
            return plain
        with folding_constants(self.subject.module):
            folded = self.run(strict=False, batch=batch)
        return plain if isinstance(folded, Exception) and not isinstance(plain, Exception) else folded

    def run(self, *, strict: bool, batch: int | None = None) -> ExportedProgram | Exception:
        """The program, of this `batch` only where one is given, or what torch.export raised."""
        low, high = self.subject.batch_limits
        example = self.rows(batch or example_size(self.subject))
        fixed = low == high or batch is not None
        shapes = None if fixed else _free_batch(self.subject.module, len(example), self.subject.batch_limits)
        try:
            with (
                torch.no_grad(),
                traced_path(),
                nullcontext() if strict else under(self.subject.module, DataAsTensor),
                nullcontext() if strict else one_batch(self.subject.module),
                _any_size(),
                user_lines.kept_in_guards(),
                _silent(),
            ):
                return torch.export.export(self.subject.module, tuple(example), dynamic_shapes=shapes, strict=strict)
        except Exception as error:  # torch raises whatever tracing the user's code runs it into
            return error

    def rows(self, count: int) -> list[torch.Tensor]:
        return [torch.from_numpy(value) for value in self.subject.example(count, seed=0).values()]


def _by_row(subject: Subject, attempt: _Attempt) -> ExportedProgram | None:
    """What the module computes of one row, for any number of them; None where it is not computed row by row."""
    one = attempt.folded(batch=1)
    if isinstance(one, Exception):
        return None
    try:
        with torch.no_grad(), traced_path(), _any_size(), _silent():
            program = widened(one, attempt.rows(example_size(subject)), subject.batch_limits)
    except Exception:  # of an op that mixes rows; the caller says why rows had to be told apart
        return None
    counts = _within(subject.batch_limits, _TRIED)
    right = not deciding(program).is_constant and all(agree(subject, program, count) for count in counts)
    return program if right else None


def _within(limits: Limits, sizes: tuple[int, ...]) -> list[int]:
    low, high = limits
    return [size for size in sizes if low <= size and (high is None or size <= high)]


def example_size(subject: Subject) -> int:
    """A batch within the limits that no other axis of the inputs has."""
    taken = {size for spec in subject.inputs for size in spec.with_batch(0)[1:]}
    low, high = subject.batch_limits
    fits = _within(subject.batch_limits, _SIZES)
    return next((size for size in fits if size not in taken), (fits or [high or low])[0])


def _free_batch(module: torch.nn.Module, count: int, limits: Limits) -> dict[str, Any]:
    """The batch axis of each input, under the name of the parameter that takes it."""
    low, high = limits
    axis = {0: Dim.AUTO(min=low, max=high)}
    bound = inspect.signature(module.forward).bind(*range(count)).arguments
    return {name: tuple(axis for _ in value) if isinstance(value, tuple) else axis for name, value in bound.items()}


def _any_size() -> AbstractContextManager[None]:
    """Within it torch takes no path of its own for a size that is 1 in the example."""
    made: AbstractContextManager[None] = symbolic_shapes.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
    return made


def _checked(subject: Subject, program: ExportedProgram, decision: Decision) -> Exported:
    if decision.is_constant:
        where = f" at {decision.line}" if decision.line else ""
        raise ExportError(f"tracing {subject.name}: the batch became a constant{where}", hint=AS_THEY_ARE)
    limits, reason = valid_sizes(subject, program, decision, example_size(subject))
    return Exported(program, limits, reason)


@contextmanager
def _silent() -> Iterator[None]:
    """torch logs what it then raises, and prints the program that it had by then on stderr."""
    names = ("torch.export", "torch._guards", "torch._dynamo", "torch.fx", "torch._subclasses")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with mock.patch.object(torch_trace, "print", _nothing, create=True):  # what torch's own module calls so
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _nothing(*_said: Any, **_where: Any) -> None:
    """In place of `print`."""
