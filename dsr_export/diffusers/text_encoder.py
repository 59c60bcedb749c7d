"""A bundle in the place of a pipeline's text encoder.

Shapes: n prompts, L tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from dsr_export.diffusers.matching import eager
from dsr_export.diffusers.part import AttachedPart
from dsr_export.diffusers.running import Running
from dsr_export.diffusers.text_outputs import text_output
from dsr_export.errors import ExportError

READ = ("input_ids", "attention_mask", "output_hidden_states", "return_dict")
"""Arguments that count; others are only taken where they ask for nothing."""


class AttachedTextEncoder(AttachedPart):
    """Called as the encoder of transformers that it stands for: it returns the same, of what the bundle holds of it.

    Other hidden states than the pipeline's own raise ExportError where they are read.
    """

    def __init__(self, original: nn.Module, running: Running) -> None:
        super().__init__(original, running)
        self._signature = inspect.signature(type(eager(original)).forward)
        self._state = _state(running)

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the original's, with `return_dict` and `output_hidden_states`. Raises what `attach` says."""
        (running,) = self._running
        running.check_open()
        called = self._called(args, kwargs)
        ids: Any = called.get("input_ids")
        inputs, length = _inputs(running, ids, called.get("attention_mask"))
        made = {name: each.to(ids.device, self.dtype) for name, each in running(inputs).items()}
        made = {name: each[:, :length] if name == "embeds" else each for name, each in made.items()}
        layers = int(self.config.num_hidden_layers) if self._asked(called, "output_hidden_states", False) else None
        output = text_output(type(eager(self.original)).__name__, made, self._state, layers)
        return output if self._asked(called, "return_dict", True) else output.to_tuple()

    def _called(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments by name. ExportError for those that a graph has no place for."""
        bound = self._signature.bind(None, *args, **kwargs)
        called: dict[str, Any] = {}
        for name, value in list(bound.arguments.items())[1:]:
            rest = self._signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
            called |= value if rest else {name: value}
        for name, value in called.items():
            if name not in READ and value is not None and value is not False:
                raise ExportError(
                    f"the pipeline gives its {self._running[0].role} '{name}', which the bundle was built without"
                )
        return called

    def _asked(self, called: Mapping[str, Any], name: str, usual: bool) -> bool:
        """What a call says, or else the model's configuration. A number chooses a hidden state, the first as well."""
        value = called.get(name)
        value = getattr(self.config, name, usual) if value is None else value
        return value is not False and value is not None


def _state(running: Running) -> str | None:
    """Which hidden state the graph gives; None where it gives none. ExportError where the bundle does not say it."""
    found: str | None = running.manifest.model["config"].get("hidden_state")
    if any(spec.name == "embeds" for spec in running.manifest.outputs) and found not in ("last", "penultimate"):
        hint = "build it again, or leave this part out: components=..."
        raise ExportError(f"{running.bundle.path} does not say which hidden state it gives", hint=hint)
    return found


def _inputs(running: Running, ids: Any, mask: Any) -> tuple[dict[str, Tensor], int]:
    """The graph's inputs where it runs, and how many tokens of its own number are the caller's.

    Where a mask says which tokens count, fewer than the graph's are filled up on the right, which changes none of them.
    """
    if not isinstance(ids, Tensor) or ids.dtype not in (torch.int32, torch.int64) or ids.ndim not in (1, 2):
        raise ExportError(f"the pipeline gives its {running.role} no input_ids [prompts, tokens]")
    ids = ids if ids.ndim == 2 else ids[None]
    running.check_batch(len(ids))
    _check_vocabulary(running, ids)
    names = [spec.name for spec in running.manifest.input_specs()]
    total, length = int(running.manifest.model["config"]["text_tokens"]), ids.shape[1]
    counts = _counts(running, ids, mask)
    if length > total or (length < total and "mask" not in names):
        raise ExportError(
            f"the pipeline gives its {running.role} {length} tokens, and the bundle takes {total}",
            hint="give max_sequence_length as it was built for, or build with --option text_tokens=",
        )
    if "mask" not in names and not bool(counts.all()):
        raise ExportError(
            f"the pipeline gives its {running.role} an attention_mask, and the bundle reads every token",
            hint=f"{running.bundle.manifest.name} was built of a pipeline that gives none",
        )
    more = (0, total - length)
    given = {"ids": pad(ids.long(), more), "mask": pad(counts.long(), more)}
    return {name: given[name].to(running.device).contiguous() for name in names}, length


def _counts(running: Running, ids: Tensor, mask: Any) -> Tensor:
    """Which tokens count [n, L], as transformers takes it: all without a mask, else those whose number is not 0."""
    if mask is None:
        return torch.ones_like(ids, dtype=torch.bool)
    if not isinstance(mask, Tensor) or mask.shape != ids.shape:
        found = list(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise ExportError(f"the pipeline gives its {running.role} an attention_mask {found} of ids {list(ids.shape)}")
    return mask.bool()


def _check_vocabulary(running: Running, ids: Tensor) -> None:
    """An index outside of the table wraps around or reads beyond, and no runtime says so."""
    rows = running.manifest.model["config"].get("vocab_size")
    if ids.numel() == 0:
        raise ExportError(f"the pipeline gives its {running.role} no tokens")
    lowest, highest = int(ids.min()), int(ids.max())
    if type(rows) is int and not 0 <= lowest <= highest < rows:
        wrong = lowest if lowest < 0 else highest
        raise ExportError(
            f"the {running.role} has no token {wrong}: its vocabulary has {rows}", hint="is it another's tokenizer?"
        )
