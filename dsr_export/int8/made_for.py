"""Whether shares of a calibration belong together, and to a build: the same model, data, options, and versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dsr_export.declarations.calibration_part import Part, read_parts
from dsr_export.errors import ExportError
from dsr_export.storage.made_with import source_digest, tool_versions

_OPTIONS = {
    "method": "--method",
    "data": "--calibration",
    "images": "--calibration-images",
    "steps": "--calibration-steps",
}
_DIGEST = 64
_ALIKE = "measure all shares with the same options, versions and files, and build with these"


def made_by() -> dict[str, Any]:
    """The versions that statistics depend on: sums of another one may differ in their last bit."""
    return {**tool_versions(), "source": source_digest()}


def checked_parts(paths: Sequence[Path]) -> list[Part]:
    """The parts at `paths`, as `read_parts` finds them. ExportError also where two do not belong together."""
    parts = read_parts(paths)
    for part in parts[1:]:
        if (found := difference(part.made_for, parts[0].made_for)) is not None:
            raise ExportError(f"{part.folder} does not go with {parts[0].folder}: {found}", hint=_ALIKE)
    return parts


def check_made_for(part: Part, wanted: Mapping[str, Any]) -> None:
    """Raises ExportError unless the part was measured for what `wanted` says, as `Calibrate.made_for` gives it."""
    if (found := difference(part.made_for, wanted)) is not None:
        raise ExportError(f"{part.folder} was measured for another build: {found}", hint=_ALIKE)


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """In what way `one` is for something else than `other`, as it is said; None where it is not.

    Versions first: those of tools make other graphs, too.
    """
    for key, name_it in (("by", _version), ("options", _option), ("sampler", _sampler), ("walk", _walk)):
        if key == "options" and any(one.get(each) != other.get(each) for each in ("model", "source")):
            return "another model, or other weights"
        there, here = (each[key] if isinstance(each.get(key), dict) else {} for each in (one, other))
        for name in sorted(there.keys() | here.keys()):
            if there.get(name) != here.get(name):
                return name_it(name, there.get(name), here.get(name))
    if one.get("precision") != other.get("precision"):
        return f"--precision {_said(one.get('precision'))}, not {_said(other.get('precision'))}"
    return None if one == other else "another model or batch"


def _version(name: str, one: Any, other: Any) -> str:
    if name == "source":
        return "another version of this package's code"
    return f"{name} {_said(one, 'missing')}, not {_said(other, 'missing')}"


def _option(name: str, one: Any, other: Any) -> str:
    option = _OPTIONS.get(name, name)
    if name == "data" and _DIGEST in (len(str(one)), len(str(other))):  # files are known by their content
        return f"other data in {option}"
    return f"{option} {_said(one)}, not {_said(other)}"


def _sampler(name: str, one: Any, other: Any) -> str:
    return f"walks of another sampler, its {name} {_said(one)}, not {_said(other)}"


def _walk(name: str, one: Any, other: Any) -> str:
    return f"walks of {'other prompts' if name == 'prompts' else 'another pipeline around the model'}"


def _said(value: Any, unsaid: str = "by default") -> str:
    return unsaid if value is None else str(value)[:80]
