"""MODEL as `package.module:callable`: the user's own code makes the module, or a whole `Subject`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dsr_export.config import ModelRequest
from dsr_export.declarations.weight_file import WeightFile
from dsr_export.errors import ExportError
from dsr_export.families.digests import file_sha256
from dsr_export.sources.options import refuse_unused
from dsr_export.user_code.imported import code_digest, described, import_object, running_own_code

if TYPE_CHECKING:
    from dsr_export.subject import Subject

_FORM = re.compile(r"(?P<module>[^\W\d]\w*(\.[^\W\d]\w*)*):(?P<attribute>[^\W\d]\w*(\.[^\W\d]\w*)*)")


@dataclass(frozen=True)
class CallableSource:
    """`options` are passed to the callable by name."""

    request: ModelRequest
    module: str
    attribute: str

    @property
    def name(self) -> str:
        return self.attribute.rsplit(".", 1)[-1]

    def key(self) -> dict[str, Any]:
        """Source files, checkpoint and options, and what the callable made of them.

        The code may read files of its own, or draw its weights: only the module itself tells one build from another.
        So, unlike other sources, this one loads the model, and needs torch.
        """
        with running_own_code():
            code = code_digest(self.module)
        from dsr_export.subjects.digest import content_digest

        checkpoint = self.request.checkpoint
        return {
            "form": "callable",
            "callable": f"{self.module}:{self.attribute}",
            "code_sha256": code,
            "checkpoint_sha256": file_sha256(checkpoint) if checkpoint else None,
            "weights": self.request.weights,
            "options": dict(self.request.options),
            "content_sha256": content_digest(self.load()),
        }

    def load(self) -> Subject:
        return self._subject

    @cached_property
    def _subject(self) -> Subject:
        from dsr_export.checkpoints import load_into, names_of, read_checkpoint
        from dsr_export.subjects.module import loaded_module, subject_from

        checkpoint = self.request.checkpoint
        provenance: dict[str, Any] = {"callable": f"{self.module}:{self.attribute}"}
        with running_own_code():
            made = self._call(import_object(self.module, self.attribute))
            if checkpoint is not None:
                module = loaded_module(made, self.request.model)
                found = read_checkpoint(WeightFile(checkpoint, self.request.weights), names_of(module))
                load_into(module, found.state)
                provenance |= {"checkpoint_sha256": file_sha256(checkpoint), "weights": found.origin}
            return subject_from(made, name=self.name, called=self.request.model, provenance=provenance)

    def _call(self, found: Any) -> Any:
        from torch import nn

        if isinstance(found, nn.Module):
            return found
        if not callable(found):
            raise ExportError(f"{self.request.model} is {type(found).__name__}, not callable", hint="name a function")
        try:
            return found(**self.request.options)
        except ExportError:
            raise
        except Exception as error:  # the user's code may raise anything
            raise ExportError(
                f"{self.request.model} raised {described(error)}", hint="call it in Python first"
            ) from error


def accepts(request: ModelRequest) -> bool:
    """A name with a colon in it."""
    return ":" in request.model


def source(request: ModelRequest) -> CallableSource:
    """The source. Raises `ExportError` for another form, or options that own code has no use for."""
    found = _FORM.fullmatch(request.model)
    if found is None:
        raise ExportError(
            f"'{request.model}' is not package.module:callable", hint="for example mymodels.dit:build, without .py"
        )
    hint = "the code itself decides on weights and registers; use its arguments, or dsr_export.registers"
    refuse_unused(request, "a callable", used=("checkpoint", "weights", "options"), hint=hint)
    if request.weights is not None and request.checkpoint is None:
        raise ExportError("--weights chooses among a checkpoint's weights", hint="give --checkpoint FILE with it")
    return CallableSource(request, found["module"], found["attribute"])
