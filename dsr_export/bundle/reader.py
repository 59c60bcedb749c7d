"""Opens a bundle. Everything is verified before anything is used: a plan is native code, a graph can name any file."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from dsr_export.bundle.components import check_component
from dsr_export.bundle.manifest import FileEntry, Manifest
from dsr_export.bundle.model_file import check_model_file
from dsr_export.bundle.paths import MANIFEST, SIGNATURE, parents
from dsr_export.bundle.paths import MODEL as MODEL
from dsr_export.bundle.paths import RUNTIME_MODEL as RUNTIME_MODEL
from dsr_export.bundle.paths import STEP as STEP
from dsr_export.bundle.signature_file import PublicKey, Signature, read_signature
from dsr_export.errors import ExportError, did_you_mean
from dsr_export.storage.canonical import MAX_BYTES, parse_json, read_bounded
from dsr_export.storage.npz_file import read_npz
from graphs.digests import files_digest

if TYPE_CHECKING:
    from dsr_export.backends.base import Runner
    from dsr_export.backends.opening import Say
    from dsr_export.backends.runtime_names import Runtime

Array = npt.NDArray[Any]
GOLDEN, TAPS, REPORT = "golden.npz", "taps.npz", "report.json"
ENGINE_MODEL = f"engines/{MODEL}"
"""What engines are built from, in a bundle whose `model.onnx` has ONNX Runtime's form."""

_REBUILD = "copy the bundle again, or build it again with --force"


@dataclass(frozen=True)
class Bundle:
    """A verified bundle folder. Files are read again when asked for: whoever may write there must be trusted.

    `components` are the other models of a pipeline, by role: bundles too, and verified with the one around them.
    `signature` was checked only where keys to trust were given.
    """

    path: Path
    manifest: Manifest
    components: Mapping[str, Bundle] = field(default_factory=dict)
    signature: Signature | None = None

    @classmethod
    def open(cls, path: Path | str, *, trust: Sequence[PublicKey] = ()) -> Bundle:
        """Opens a bundle after verifying every file of it.

        With `trust`, first of all its signature: not a byte of an unsigned bundle is parsed.

        Raises:
            ExportError: it is no bundle; or a file, which is named, is missing, unlisted, a link, or has another size
                or checksum than the manifest says; or a `model.onnx` refers to anything outside its bundle; or a
                component is not the bundle that the manifest says; or none of the keys `trust` signed the manifest.
        """
        folder = Path(path)
        try:
            signature = read_signature(folder)
            manifest = _manifest(folder, signature, trust)
            _check_entries(folder, manifest)
            for name, entry in manifest.files.items():
                _check_file(folder / name, entry)
            _check_model(folder, manifest)
            components = {role: _component(folder, manifest, role) for role in manifest.components}
        except OSError as error:
            raise ExportError(f"cannot read the bundle {folder}: {error}", hint=_REBUILD) from error
        return cls(folder, manifest, components, signature)

    def component(self, role: str) -> Bundle:
        """The component `role`. ExportError where the bundle has no such component."""
        if role not in self.components:
            held = "its components: " + ", ".join(self.components) if self.components else "it has no components"
            near = did_you_mean(role, self.components) or "build it again with --component"
            raise ExportError(f"{self.path} has no component '{role}'", hint=f"{held}; {near}")
        return self.components[role]

    def file(self, name: str) -> Path:
        """Where the listed file `name` lies. ExportError where the bundle has no such file."""
        if name not in self.manifest.files:
            near = did_you_mean(name, self.manifest.files)
            raise ExportError(f"{self.path} has no file {name!r}", hint=near or _REBUILD)
        return self.path / name

    def runtime_graph(self, folder: str = "") -> str:
        """The listed file that ONNX Runtime runs, of the model or of what is in `folder`."""
        own = f"{folder}{RUNTIME_MODEL}"
        return own if own in self.manifest.files else f"{folder}{MODEL}"

    @property
    def engine_graph(self) -> str:
        """The listed file that engines are built from."""
        return ENGINE_MODEL if ENGINE_MODEL in self.manifest.files else MODEL

    @property
    def step_graph(self) -> str | None:
        """The listed graph of a whole sampler step, in the form of `model.onnx`; None where it has none."""
        return f"{STEP}{MODEL}" if f"{STEP}{MODEL}" in self.manifest.files else None

    @property
    def engine_step_graph(self) -> str | None:
        """The listed file that engines of a whole sampler step are built from."""
        own = f"{STEP}{ENGINE_MODEL}"
        return own if own in self.manifest.files else self.step_graph

    @property
    def graphs(self) -> tuple[str, ...]:
        """All listed graphs of the bundle's own model, `model.onnx` first."""
        return _graphs(self.manifest)

    def golden(self) -> dict[str, Array]:
        """The golden vectors by name. ExportError where they are missing or unreadable."""
        return read_npz(self.file(GOLDEN))

    def taps(self) -> dict[str, Array]:
        """The reference's values inside the model. ExportError where they are missing or unreadable."""
        return read_npz(self.file(TAPS))

    def runner(self, runtime: Runtime = "auto", *, say: Say | None = None, step: bool = False) -> Runner:
        """A context manager with `infer(dict) -> dict`; `auto` takes an engine where a GPU can run it.

        With `step`, of what holds a whole step of the sampler: see `graphs.sampling.fused_step` for its inputs.

        Its `infer` refuses labels that the model does not have. `say` is told what fell back, or takes long, and why.

        Raises:
            ExportError: the bundle holds no engine for `runtime`, or it can't run here.
        """
        from dsr_export.backends.labels import with_labels
        from dsr_export.backends.opening import bundle_runner

        return with_labels(bundle_runner(self, runtime, say, step=step), self.manifest)

    def report(self) -> dict[str, Any]:
        """The build's report. ExportError where it is missing or no JSON object."""
        path = self.file(REPORT)
        value = parse_json(read_bounded(path), where=path, max_bytes=MAX_BYTES)
        if not isinstance(value, dict):
            raise ExportError(f"{path} is no JSON object", hint=_REBUILD)
        return value

    def passed_when_built(self) -> bool:
        """The verdict of the build's report. ExportError where it has none."""
        passed = self.report().get("passed")
        if type(passed) is not bool:
            raise ExportError(f"{self.file(REPORT)} does not say whether the build passed", hint=_REBUILD)
        return passed

    def engine(self, target: str) -> Path | None:
        """The plan built for `target`, None where that runtime takes `model.onnx`. ExportError for another target."""
        targets = {each.name: each for each in self.manifest.targets}
        if target not in targets:
            near, names = did_you_mean(target, targets), f"its targets: {', '.join(targets)}"
            raise ExportError(f"{self.path} was not built for '{target}'", hint=f"{near} {names}" if near else names)
        engine = targets[target].engine
        return None if engine is None else self.file(engine)


def _manifest(folder: Path, signature: Signature | None = None, trust: Sequence[PublicKey] = ()) -> Manifest:
    if not folder.is_dir():
        kind = "is a file, expected a bundle folder" if folder.exists() else "does not exist"
        raise ExportError(f"{folder} {kind}", hint="`dsr-export build` makes a bundle")
    path = folder / MANIFEST
    if not os.path.lexists(path):
        raise ExportError(f"{folder} is no bundle: it has no {MANIFEST}", hint="`dsr-export build` makes a bundle")
    _check_regular(path)
    data = read_bounded(path)
    if trust:
        from dsr_export.bundle.signing import require_signed

        require_signed(folder, data, signature, trust)
    manifest = Manifest.from_bytes(data, where=path)
    if MODEL not in manifest.files:
        raise ExportError(f"{path} does not list {MODEL}", hint=_REBUILD)
    return manifest


def _component(folder: Path, outer: Manifest, role: str) -> Bundle:
    """A component's files are files of `outer`, so they are verified already; what is left is that they belong."""
    path = folder / outer.components[role].path
    manifest = _manifest(path)
    check_component(outer, role, manifest, where=path / MANIFEST)
    _check_model(path, manifest)
    return Bundle(path, manifest)


def _check_model(folder: Path, manifest: Manifest) -> None:
    sizes = {name: entry.size for name, entry in manifest.files.items()}
    for graph in _graphs(manifest):
        *parts, name = graph.split("/")
        inside = "".join(f"{part}/" for part in parts)
        beside = {name.removeprefix(inside): size for name, size in sizes.items() if name.startswith(inside)}
        check_model_file(folder / graph, beside, own=name == RUNTIME_MODEL)


def _graphs(manifest: Manifest) -> tuple[str, ...]:
    own = (MODEL, RUNTIME_MODEL, ENGINE_MODEL)
    known = (*own, *(f"{STEP}{name}" for name in own))
    return tuple(name for name in known if name in manifest.files)


def _check_entries(folder: Path, manifest: Manifest) -> None:
    """Nothing in the folder but what the manifest lists; unknown folders are refused, not walked."""
    files = {*manifest.files, MANIFEST, SIGNATURE}
    folders = {parent for name in files for parent in parents(name)}
    for entry, name in _walk(folder, folders):
        if entry.is_symlink():
            raise ExportError(f"{folder / name} is a link, which a bundle may not hold", hint=_REBUILD)
        known = name in folders if entry.is_dir(follow_symlinks=False) else name in files
        if not known:
            raise ExportError(f"{folder / name} is not listed in {MANIFEST}", hint=f"remove it, or {_REBUILD}")


def _walk(folder: Path, folders: set[str]) -> Iterator[tuple[os.DirEntry[str], str]]:
    """Entries of the folder and of its real subfolders `folders`, with their paths relative to `folder`."""
    for inside in ("", *sorted(folders)):
        path = folder / inside
        if inside and not (path.is_dir() and not path.is_symlink()):
            continue  # found missing, or found to be a link, elsewhere
        with os.scandir(path) as entries:
            for entry in entries:
                yield entry, f"{inside}/{entry.name}" if inside else entry.name


def _check_file(path: Path, entry: FileEntry) -> None:
    size = _check_regular(path)
    if size != entry.size:
        raise ExportError(f"{path} has {size} bytes, the manifest says {entry.size}", hint=_REBUILD)
    digest = files_digest([path])
    if digest != entry.sha256:
        raise ExportError(
            f"{path} was changed: its sha256 is {digest}, the manifest says {entry.sha256}", hint=_REBUILD
        )


def _check_regular(path: Path) -> int:
    """The size of a regular file; links count as none."""
    try:
        found = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        raise ExportError(f"{path} is missing", hint=_REBUILD) from None
    if not stat.S_ISREG(found.st_mode):
        raise ExportError(f"{path} is no regular file", hint=_REBUILD)
    return found.st_size
