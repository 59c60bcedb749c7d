"""Whether a bundle may be part of another, as what, and whether it is the part that the manifest around it means."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dsr_export.bundle.component_entries import ROLES, TEXT_ENCODERS, ComponentEntry, component_path
from dsr_export.bundle.manifest import FileEntry, Manifest
from dsr_export.bundle.paths import MANIFEST
from dsr_export.errors import ExportError
from dsr_export.storage.disk import Recorded

_KINDS: Mapping[tuple[tuple[str, ...], tuple[str, ...]], str] = {
    (("z",), ("image",)): "decoder",
    (("image",), ("tokens",)): "encoder",
    (("image",), ("z",)): "encoder",
    (("image",), ("z", "log_variance")): "encoder",
    **{
        (takes, gives): "text encoder"
        for takes in (("ids",), ("ids", "mask"))
        for gives in (("embeds",), ("pooled",), ("embeds", "pooled"))
    },
}
"""(inputs, outputs) by name -> what kind of model that is."""
_KIND_OF_ROLE: Mapping[str, str] = {
    "decoder": "decoder",
    "encoder": "encoder",
    "vae": "decoder",
    "vae_encoder": "encoder",
    **dict.fromkeys(TEXT_ENCODERS, "text encoder"),
}
_HINT = "a decoder takes 'z' and gives 'image', an encoder takes 'image' and gives 'tokens' or 'z'"
_REBUILD = "copy the bundle again, or build it again with --force"


def role_of(manifest: Manifest, *, where: str | Path) -> str:
    """What the bundle at `where` is beside a denoiser, told by its inputs and outputs.

    Raises:
        ExportError: it is a denoiser itself, something else, or a pipeline with components of its own.
    """
    kind = _kind_of(manifest, where)
    if kind not in ROLES:
        hint = "build the whole pipeline: --model-dir FOLDER --components all"
        raise ExportError(f"{where} is a {kind}, and does not say which of a pipeline's", hint=hint)
    return kind


def _kind_of(manifest: Manifest, where: str | Path) -> str:
    if manifest.components:
        held = ", ".join(manifest.components)
        raise ExportError(f"{where} holds components itself ({held})", hint="give the bundles it was made of")
    inputs, outputs = (tuple(spec.name for spec in specs) for specs in (manifest.inputs, manifest.outputs))
    if manifest.sampler is not None or "x" in inputs:
        raise ExportError(f"{where} is a denoiser, which is no component of another model", hint=_HINT)
    if (inputs, outputs) not in _KINDS:
        takes, gives = (", ".join(names)[:80] for names in (inputs, outputs))
        raise ExportError(f"{where} takes {takes} and gives {gives}: neither a decoder nor an encoder", hint=_HINT)
    return _KINDS[inputs, outputs]


def component_entry(role: str, manifest: Manifest) -> ComponentEntry:
    """What the manifest around it says of the component `manifest`."""
    return ComponentEntry(
        path=component_path(role), name=manifest.name, build_key=manifest.build_key, digest=manifest.digest
    )


def component_contents(role: str, folder: Path, manifest: Manifest) -> dict[str, Path | Recorded]:
    """What the bundle in `folder` adds to the contents of the bundle around it: every file, as it is."""
    inside = component_path(role)
    files = {f"{inside}/{name}": Recorded(folder / name, entry.sha256) for name, entry in manifest.files.items()}
    return {f"{inside}/{MANIFEST}": folder / MANIFEST, **files}


def check_component(outer: Manifest, role: str, nested: Manifest, *, where: Path) -> None:
    """Holds the manifest at `where`, that of the component `role`, against the one around it.

    Raises:
        ExportError: it is another bundle than `outer` says, of another role, or does not list the files that lie there.
    """
    if _kind_of(nested, where) != _KIND_OF_ROLE[role]:
        raise ExportError(f"{where} is no {role}, as the manifest around it says", hint=_REBUILD)
    entry = outer.components[role]
    if component_entry(role, nested) != entry:
        said = f"its digest is {nested.digest}, the manifest around it says {entry.digest}"
        raise ExportError(f"{where} is of another bundle: {said}", hint=_REBUILD)
    _check_listed(_below(outer.files, f"{entry.path}/"), nested.files, where)


def _check_listed(around: Mapping[str, FileEntry], own: Mapping[str, FileEntry], where: Path) -> None:
    differing = sorted(name for name in {*around, *own} if around.get(name) != own.get(name))
    if differing:
        file = where.parent / differing[0]
        raise ExportError(f"{file} is not the file that {where} lists", hint=_REBUILD)


def _below(files: Mapping[str, FileEntry], folder: str) -> dict[str, FileEntry]:
    """The files of a component but its manifest, named as it names them."""
    inside = {name[len(folder) :]: entry for name, entry in files.items() if name.startswith(folder)}
    return {name: entry for name, entry in inside.items() if name != MANIFEST}
