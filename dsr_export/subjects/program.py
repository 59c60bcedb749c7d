"""A `.pt2` exported program as a `Subject`; it is traced from its own graph, never from Python again."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

import dsr_export.registers  # noqa: F401  (defines the torch ops that a program may hold)
from dsr_export.errors import ExportError
from dsr_export.example_rows.kinds import draws_like
from dsr_export.program_archive import load_archive
from dsr_export.spec import DsrSpec
from dsr_export.subject import Subject
from dsr_export.subjects.inputs import DTYPES, name_of
from dsr_export.subjects.module import SITES, check_weights, probe_module
from dsr_export.subjects.program_bounds import check_cost
from dsr_export.tracing.probing import Array, Limits, probed_sizes
from dsr_export.user_code.imported import described
from graphs.artifacts import TensorSpec, TracedModel

_OPS = {"ReplaceOutliers": "dsr.replace_outliers.default", "ShiftRegisterNeurons": "dsr.shift_register_neurons.default"}
_AGAIN = "save it again with torch.export.save(torch.export.export(module, inputs, dynamic_shapes=...), 'model.pt2')"
_BATCH = "export it with {0: torch.export.Dim('batch', min=1)} for every input, or with a fixed batch for all"


class ByKeyword(nn.Module):
    """Calls `inner` with keywords after the first `positional` inputs: they are not its first parameters."""

    def __init__(self, inner: nn.Module, names: Sequence[str], *, positional: int = 0) -> None:
        super().__init__()
        self.inner, self.names, self.positional = inner, list(names[positional:]), positional

    def forward(self, *values: Tensor) -> Any:
        first, rest = values[: self.positional], values[self.positional :]
        return self.inner(*first, **dict(zip(self.names, rest, strict=True)))


@dataclass(frozen=True, kw_only=True)
class ProgramSubject(Subject):
    """`module` is the program's own."""

    program: ExportedProgram = field(repr=False)

    def trace(self, path: Path) -> TracedModel:
        """Writes the graph with symbolic `dsr` ops to `path`."""
        from dsr_export.tracing.trace import trace

        return trace(self, path, program=self.program)


def load_program(path: Path, *, name: str, provenance: Mapping[str, Any]) -> ProgramSubject:
    """Checks the archive, loads it and runs it once.

    Raises:
        ExportError: an unreadable archive, or one that could execute code; inputs that are no tensors or whose first
            axis is not the batch; weights of another type than FP32; a program that draws random numbers.
    """
    program = load_archive(path)
    graph = _module(program, path)
    inputs, limits = _inputs(program)
    keywords = program.call_spec.in_spec.child(1).context if program.call_spec.in_spec is not None else []
    module: nn.Module = graph
    if keywords:
        module = ByKeyword(graph, [spec.name for spec in inputs], positional=len(inputs) - len(keywords))
    module.training = False  # an exported module refuses eval(): its mode is fixed
    check_weights(module, str(path))
    check_cost(graph, inputs, probed_sizes(limits)[-1], str(path))
    given = _given(program, inputs)
    draws = draws_like(given)
    return ProgramSubject(
        name=name,
        family="exported-program",
        module=module,
        inputs=inputs,
        outputs=probe_module(module, inputs, draws, given, limits=limits, called=str(path)),
        dsr=DsrSpec(),
        provenance=dict(provenance),
        draws=draws,
        given=given,
        special_rows=True,
        sites_override=_sites(program),
        batch_limits=limits,
        program=program,
    )


def _module(program: ExportedProgram, path: Path) -> fx.GraphModule:
    try:
        module = program.module()
    except Exception as error:  # torch raises whatever a damaged program runs it into
        raise ExportError(f"{path} is no readable exported program: {described(error)}", hint=_AGAIN) from error
    assert isinstance(module, fx.GraphModule)
    return module


def _inputs(program: ExportedProgram) -> tuple[tuple[TensorSpec, ...], Limits]:
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    named = [(str(name), values.get(str(name))) for name in program.graph_signature.user_inputs]
    tensors: dict[str, Tensor] = {}
    for name, value in named:
        if not isinstance(value, Tensor):
            raise ExportError(f"input '{name}' of the program is a constant, not a tensor", hint=_AGAIN)
        tensors[name] = value
    limits = _batch_limits(program, tensors)
    return tuple(_spec(name, value, limits) for name, value in tensors.items()), limits


def _spec(name: str, value: Tensor, limits: Limits) -> TensorSpec:
    if value.dtype not in DTYPES:
        raise ExportError(
            f"input '{name}' is {name_of(value.dtype)}; {', '.join(DTYPES.values())} are taken", hint=_AGAIN
        )
    free = [size for size in value.shape[1:] if not isinstance(size, int)]
    if free:
        message = f"input '{name}' {list(value.shape)}: only the first axis may be free, and {free[0]} is too"
        raise ExportError(message, hint=_BATCH)
    batch = "batch" if isinstance(value.shape[0], torch.SymInt) else value.shape[0]
    return TensorSpec(name=name, dtype=DTYPES[value.dtype], shape=(batch, *value.shape[1:]))


def _batch_limits(program: ExportedProgram, inputs: Mapping[str, Tensor]) -> Limits:
    """Both bounds of the symbol that all first axes are, or their one fixed size."""
    sizes = {str(value.shape[0]) if value.ndim else "none" for value in inputs.values()}
    if len(sizes) != 1 or sizes == {"none"}:
        listed = ", ".join(f"{name} {list(value.shape)}" for name, value in inputs.items()) or "no inputs"
        raise ExportError(f"the inputs' first axes are not one batch: {listed}", hint=_BATCH)
    (size,) = sizes
    if size.isdecimal():
        return int(size), int(size)
    bounds = {str(symbol): limits for symbol, limits in program.range_constraints.items()}
    if size not in bounds:
        raise ExportError(f"the batch axis of the program is {size}, no size of its own", hint=_BATCH)
    lower, upper = int(bounds[size].lower), bounds[size].upper
    return max(lower, 1), None if _is_infinite(upper) else int(upper)


def _is_infinite(bound: Any) -> bool:
    return not bound.is_Integer or int(bound) > 1 << 30 or math.isinf(float(bound))


def _sites(program: ExportedProgram) -> dict[str, int]:
    calls = Counter(str(node.target) for node in program.graph.nodes if node.op == "call_function")
    return {op: calls[_OPS[op]] for op in SITES}


def _given(program: ExportedProgram, inputs: tuple[TensorSpec, ...]) -> dict[str, Array]:
    """The example inputs that were saved with the program, where they were."""
    args, kwargs = program.example_inputs or ((), {})
    given = [*args, *kwargs.values()]
    if len(given) != len(inputs) or not all(isinstance(value, Tensor) for value in given):
        return {}
    return {spec.name: value.detach().numpy().copy() for spec, value in zip(inputs, given, strict=True)}
