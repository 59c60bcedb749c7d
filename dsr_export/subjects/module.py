"""Any PyTorch module with example inputs as a `Subject`: everything else is learnt by running it."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dsr_export.errors import ExportError
from dsr_export.example_rows.drawn import Draw, draw_inputs
from dsr_export.example_rows.kinds import draws_like
from dsr_export.registers import RecursiveReplacement, TestTimeRegisters
from dsr_export.spec import DsrSpec
from dsr_export.subject import Subject
from dsr_export.subjects.inputs import DTYPES, WANTED, checked_inputs, example_inputs, kind_of, name_of, positional
from dsr_export.tracing.probing import Array, Limits, probe_outputs
from dsr_export.tracing.traced_path import traced_path
from dsr_export.user_code import lines as user_lines
from dsr_export.user_code.imported import described
from graphs.artifacts import TensorSpec

SITES: Mapping[str, type[nn.Module]] = {
    "ReplaceOutliers": RecursiveReplacement,
    "ShiftRegisterNeurons": TestTimeRegisters,
}
ANY_BATCH = (
    "the module must take any batch size: where its code has a number for the batch, write x.shape[0], or -1 in a view"
)
_CALL_IT = "call it in Python first: module(**inputs)"
_SINGLE = "use module.float(): parity is measured against FP32, and --precision narrows the graph"


@dataclass(frozen=True, kw_only=True)
class OwnSubject(Subject):
    """A subject whose module the user's code may hold on to."""

    def release(self) -> None:
        """Nothing: the weights are not ours to empty."""


def loaded_module(made: Any, called: str) -> nn.Module:
    """The module in what a callable returned: itself, the first of a pair, or a Subject's.

    Raises:
        ExportError: anything else.
    """
    first = made[0] if isinstance(made, tuple) and made else made
    module = first.module if isinstance(first, Subject) else first
    if not isinstance(module, nn.Module):
        raise ExportError(f"{called} returns {kind_of(made)}, not a module", hint=WANTED)
    if isinstance(module, torch.jit.ScriptModule):
        raise ExportError(f"{called} returns a TorchScript module", hint="return the module it was made from")
    return module


def subject_from(made: Any, *, name: str, called: str, provenance: dict[str, Any]) -> Subject:
    """A Subject from a module with example inputs, or the Subject itself; in eval mode, its sites counted.

    `called` is what messages name. Raises ExportError for a module without example inputs, inputs or weights of
    another type than those exported, a batch that is not the first axis, and a module that fails.
    """
    module = loaded_module(made, called).eval()
    check_weights(module, called)
    if isinstance(made, Subject):
        return _completed(made, called, provenance)
    inputs = checked_inputs(example_inputs(made, module, called), called)
    if not isinstance(made, nn.Module) and len(made) != 2:
        raise ExportError(f"{called} returns {kind_of(made)}", hint=WANTED)
    module, inputs = positional(module, inputs, called)
    specs = tuple(
        TensorSpec(name=key, dtype=DTYPES[value.dtype], shape=("batch", *value.shape[1:]))
        for key, value in inputs.items()
    )
    sites = count_sites(module, list(inputs.values()), f"{called} on its own example inputs", _CALL_IT)
    given = {key: value.detach().numpy().copy() for key, value in inputs.items()}
    draws = draws_like(given)
    outputs = probe_module(module, specs, draws, given, limits=(1, None), called=called)
    return OwnSubject(
        name=name,
        family="callable",
        module=module,
        inputs=specs,
        outputs=outputs,
        dsr=DsrSpec(),
        provenance=provenance,
        draws=draws,
        given=given,
        special_rows=True,
        sites_override=sites,
    )


def probe_module(
    module: nn.Module,
    inputs: tuple[TensorSpec, ...],
    draws: Mapping[str, Draw],
    given: Mapping[str, Array],
    *,
    limits: Limits,
    called: str,
    hint: str = ANY_BATCH,
) -> tuple[TensorSpec, ...]:
    """The outputs of `module`, learnt by running it. Refuses as `probe_outputs`, and what changes itself.

    `hint` is of a module that raises.
    """
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}

    def infer(feeds: dict[str, Array]) -> dict[str, Array]:
        what = f"{called} at batch {len(next(iter(feeds.values())))}"
        made = _run(module, [torch.from_numpy(value) for value in feeds.values()], what, hint)
        _check_unchanged(module, before, called)  # first, as its outputs then differ from run to run, too
        return _named_outputs(made, called)

    outputs = probe_outputs(infer, lambda size: draw_inputs(inputs, size, seed=0, draws=draws, given=given), limits)
    clash = {spec.name for spec in outputs} & {spec.name for spec in inputs}
    if clash:
        raise ExportError(f"{called}: '{min(clash)}' is the name of an input and of an output", hint="rename one")
    return outputs


def _check_unchanged(module: nn.Module, before: Mapping[str, Tensor], called: str) -> None:
    now = dict(module.named_buffers())
    changed = [name for name, buffer in before.items() if name not in now or not torch.equal(now[name], buffer)]
    if changed:
        hint = "a graph keeps no state: work on a copy of it (buffer.clone()), or make it an input and an output"
        raise ExportError(f"{called} changes its buffer '{changed[0]}' when it runs", hint=hint)


def count_sites(module: nn.Module, inputs: Sequence[Tensor], what: str, hint: str = ANY_BATCH) -> dict[str, int]:
    """Symbolic op type -> calls of its module in one run of `module`; each becomes one node of the traced graph."""
    calls: Counter[str] = Counter()
    hooks = []
    for each in module.modules():
        for op, kind in SITES.items():
            if isinstance(each, kind) and each.enabled:
                hooks.append(each.register_forward_pre_hook(lambda *_, op=op: calls.update([op])))
    try:
        _run(module, inputs, what, hint)
    finally:
        for hook in hooks:
            hook.remove()
    return {op: calls[op] for op in SITES}


def _completed(subject: Subject, called: str, provenance: dict[str, Any]) -> Subject:
    """A Subject that the code made, with sites counted where it declares none."""
    inputs = [torch.from_numpy(value) for value in subject.example(2, seed=0).values()]
    found = count_sites(subject.module, inputs, f"{called} on an example of its inputs")
    declared = any(subject.sites.values())
    fields = {field.name: getattr(subject, field.name) for field in dataclasses.fields(Subject)}
    fields["provenance"] = {**provenance, **subject.provenance}
    fields["sites_override"] = subject.sites_override if declared else found
    return OwnSubject(**fields)


def check_weights(module: nn.Module, called: str) -> None:
    """Raises `ExportError` where a weight is no FP32, or not on the CPU."""
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise ExportError(f"{called}: the weight '{name}' is {name_of(tensor.dtype)}", hint=_SINGLE)
        if tensor.device.type != "cpu":
            raise ExportError(f"{called}: the weight '{name}' is on {tensor.device}", hint="use module.cpu()")


def _run(module: nn.Module, inputs: Sequence[Tensor], what: str, hint: str = ANY_BATCH) -> Any:
    try:
        with torch.inference_mode(), traced_path():
            return module(*(value.clone() for value in inputs))
    except Exception as error:  # the user's code may raise anything
        raise raised_by(what, error, hint) from error


def raised_by(what: str, error: Exception, hint: str) -> ExportError:
    """`what` raised `error`, and at which line of the model's code."""
    line = user_lines.of_error(error)
    return ExportError(f"{what} raised {described(error)}" + (f" at {line}" if line else ""), hint=hint)


def _named_outputs(made: Any, called: str) -> dict[str, Array]:
    """`out`, `out_1`, ... or a mapping's own names."""
    if not isinstance(made, Mapping):
        values = made if isinstance(made, tuple | list) else (made,)
        made = {"out" if i == 0 else f"out_{i}": value for i, value in enumerate(values)}
    if not made:
        raise ExportError(f"{called} returns nothing")
    for name, value in made.items():
        if not isinstance(value, Tensor):
            raise ExportError(f"output '{name}' of {called} is {kind_of(value)}", hint="return tensors only")
        if value.dtype not in DTYPES:
            raise ExportError(f"output '{name}' of {called} is {name_of(value.dtype)}", hint=_SINGLE)
    return {str(name): value.detach().numpy() for name, value in made.items()}  # a view of a weight takes gradients
