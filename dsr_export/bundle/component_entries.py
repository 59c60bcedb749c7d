"""What a manifest says of the other models in its bundle: `components/<role>/` holds each, a whole bundle of its own.

The key `components` is there only where there are some, so that bundles of one model are written as they always were.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dsr_export.bundle.manifest_parts import LONGEST_NAME, FileEntry, read_sha256
from dsr_export.bundle.paths import MANIFEST
from dsr_export.bundle.schema import Fields

FOLDER = "components"
TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
ROLES = ("decoder", "encoder", *TEXT_ENCODERS, "vae", "vae_encoder")
"""Those of latents, and under diffusers' names those of its pipelines."""
KEYS = ("path", "name", "build_key", "digest")


@dataclass(frozen=True, kw_only=True)
class ComponentEntry:
    """One component: its folder, and which bundle it must be. `digest` is the one its own manifest is sealed with."""

    path: str
    name: str
    build_key: str
    digest: str


def component_path(role: str) -> str:
    """The folder of a component, relative to the bundle around it."""
    return f"{FOLDER}/{role}"


def read_components(manifest: Fields, files: Mapping[str, FileEntry]) -> dict[str, ComponentEntry]:
    """Role -> component; empty without the key. Whatever lies under `components/` belongs to one of them."""
    given = manifest.mapping(FOLDER) if FOLDER in manifest.values else {}
    if FOLDER in manifest.values and not given:
        manifest.fail(FOLDER, "at least one component, or no such key")
    listed = Fields(manifest.name(FOLDER), given)
    entries = {role: _entry(manifest, listed, role, files) for role in given}
    folders = tuple(f"{entry.path}/" for entry in entries.values())
    for path in files:
        if path.lower().startswith(f"{FOLDER}/") and not path.startswith(folders):
            Fields(manifest.name("files"), manifest.mapping("files")).fail(
                path, "only files of declared components there"
            )
    return entries


def _entry(manifest: Fields, listed: Fields, role: str, files: Mapping[str, FileEntry]) -> ComponentEntry:
    if role not in ROLES:
        manifest.fail(FOLDER, f"only the roles {', '.join(ROLES)}")
    entry = listed.child(role, KEYS)
    path = component_path(role)
    if entry.text("path") != path or f"{path}/{MANIFEST}" not in files:
        entry.fail("path", f"'{path}', with its {MANIFEST} among the files")
    return ComponentEntry(
        path=path,
        name=entry.text("name", longest=LONGEST_NAME),
        build_key=entry.text("build_key", longest=LONGEST_NAME),
        digest=read_sha256(entry, "digest"),
    )
