"""What a bundle's pictures are compared with: another bundle, or the PyTorch module it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dsr_export.bundle.reader import Bundle
from dsr_export.errors import ExportError
from dsr_export.reports.plain_json import plain
from dsr_export.storage.canonical import canonical_digest
from dsr_export.subjects.tensors_digest import tensors_digest

if TYPE_CHECKING:
    from dsr_export.config import ModelRequest
    from dsr_export.subject import Subject

PYTORCH = "pytorch"


def torch_reference(bundle: Bundle, request: ModelRequest) -> Subject:
    """The registered model that `bundle` was built from, loaded again with the weights of `request`.

    Raises:
        ExportError: the bundle holds no model that is registered, or other weights than those of `request`.
    """
    from dsr_export.families import entry, load_subject

    name = str(bundle.manifest.model["name"])
    try:
        entry(name)
    except ExportError as error:
        raise ExportError(
            f"{bundle.path} was not built from a registered model, and cannot be loaded again by name",
            hint="build it in FP32 and give that bundle: --reference my-fp32.dsr",
        ) from error
    given: dict[str, Any] = {"checkpoint": request.checkpoint, "weights": request.weights, **request.options}
    registers = bundle.manifest.dsr.get("denoiser", {}).get("registers") or None
    subject = load_subject(name, random_weights=request.random_weights, dsr=request.dsr, registers=registers, **given)
    _check_same(bundle, "weights", subject.provenance, bundle.manifest.provenance)
    _check_same(bundle, "configuration", subject.config, bundle.manifest.model["config"])
    _check_same(bundle, "declaration", subject.dsr.as_dict(), bundle.manifest.dsr)
    return subject


def _check_same(bundle: Bundle, what: str, own: Mapping[str, Any], held: Mapping[str, Any]) -> None:
    """Of what both say: the bundle's record also has what the build adds."""
    other = sorted(name for name in own if plain(own[name]) != held.get(name))
    if other:
        raise ExportError(
            f"{bundle.path} was built from another {what}: '{other[0]}' differs",
            hint="give what it was built with: --checkpoint, --weights, --random-weights, --dsr, --option",
        )


def subject_digest(subject: Subject) -> str:
    """What identifies a PyTorch reference: its tensors, registers from files among them, and its configuration."""
    tensors = tensors_digest(subject.module)
    return canonical_digest({"tensors": tensors, "config": subject.config, "dsr": subject.dsr.as_dict()})
