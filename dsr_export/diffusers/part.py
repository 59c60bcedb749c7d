"""What stands in the place of a pipeline's part, and what puts the original back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from dsr_export.bundle.reader import Bundle
from dsr_export.diffusers.offloading import hook_again
from dsr_export.diffusers.running import Running


class AttachedPart(nn.Module):
    """Called as the part that it stands for, whose other attributes it has. It holds none of its weights.

    Its type is what the pipeline works in: `pipe.to` and the like change it, and at the end the original's.
    """

    def __init__(self, original: nn.Module, *running: Running) -> None:
        super().__init__()
        place: Any = original  # any model of diffusers or transformers knows both
        self.register_buffer("_place", torch.empty(0, dtype=place.dtype, device=place.device), persistent=False)
        self._held = (original, (place.dtype, place.device))  # within a tuple: no submodule of this one
        self._running = running
        self._attachment: Attachment | None = None
        self.eval()

    @property
    def original(self) -> nn.Module:
        """What stood here before."""
        return self._held[0]

    @property
    def bundle(self) -> Bundle:
        """Whose model is called."""
        return self._running[0].bundle

    @property
    def config(self) -> Any:
        return self.original.config

    @property
    def dtype(self) -> torch.dtype:
        """What the pipeline works in."""
        found: torch.dtype = self._place.dtype
        return found

    @property
    def device(self) -> torch.device:
        """Where its inputs are wanted: tensors of the GPU are handed over without a copy."""
        return self._running[0].device

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """One without elements: diffusers and accelerate ask the first for the type and the place of all."""
        yield nn.Parameter(self._place, requires_grad=False)

    @property
    def parts(self) -> Mapping[str, AttachedPart]:
        """All that came with this one, by role, itself among them."""
        return {} if self._attachment is None else self._attachment.parts

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_"):
                raise
            return getattr(self.original, name)

    def __enter__(self) -> AttachedPart:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def detach(self) -> None:
        """Puts the originals of this part and of all that came with it back, and closes the runners, once."""
        if self._attachment is not None:
            self._attachment.end()

    def restored(self) -> nn.Module:
        """The original, in the type and the place that the pipeline was given in the meantime."""
        original, before = self._held
        now = (self._place.dtype, self._place.device)
        if now != before:
            original.to(dtype=now[0], device=now[1])
        return original


class Attachment:
    """The parts that were attached to `pipe` together, by role."""

    def __init__(self, pipe: Any, parts: Mapping[str, AttachedPart]) -> None:
        self.pipe, self.parts = pipe, dict(parts)
        config: Mapping[str, Any] = getattr(pipe, "config", {})
        self._listed = {role: config[role] for role in self.parts if role in config}

    def begin(self) -> None:
        """Puts them in their places; the pipeline's configuration goes on naming the classes of the originals."""
        for role, part in self.parts.items():
            part._attachment = self
            vars(self.pipe)[role] = part
        hook_again(self.pipe)

    def end(self) -> None:
        """Puts the originals back, where these parts stand yet, and closes their runners."""
        with contextlib.ExitStack() as closing:
            closing.callback(hook_again, self.pipe)
            for part in self.parts.values():
                for running in part._running:
                    closing.callback(running.close)
            hook_again(self.pipe)  # what is offloaded leaves the GPU, so that no original is put there whole
            for role, part in self.parts.items():
                if vars(self.pipe).get(role) is part:
                    vars(self.pipe)[role] = part.restored()
                    self._list_again(role)

    def _list_again(self, role: str) -> None:
        """A pipeline that was saved in the meantime has crossed the part out, as nothing that it could save."""
        if role in self._listed and self.pipe.config[role] != self._listed[role]:
            self.pipe.register_to_config(**{role: self._listed[role]})
