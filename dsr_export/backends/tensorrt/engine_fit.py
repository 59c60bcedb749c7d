"""Whether a plan fits this machine, told by what was recorded when it was built: before the runtime sees a byte of it.

A runtime that is handed a foreign plan fails late, and names neither what is wrong nor the way out.
"""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass

from dsr_export.backends.gpu import compute_capability
from dsr_export.backends.tensorrt.vendor import installed_version
from dsr_export.bundle.manifest_parts import BundleTarget
from dsr_export.errors import ExportError
from graphs.target_precisions import LATER, PORTABLE, at_least, lacks
from graphs.targets import TARGETS

TURING = "7.5"
_SAME_MACHINE = {"amd64": "x86_64", "arm64": "aarch64"}  # Windows' and macOS' names -> Linux'


@dataclass(frozen=True, kw_only=True)
class EngineNeeds:
    """What a plan was built for. No `compute_capabilities` is portable; no `system` is a plan of an older dsr-export.

    `bundle` is where it lies and `precision` that of its graph, for the command that rebuilds it.
    """

    target: str
    backend: str
    version: str
    compute_capabilities: tuple[str, ...]
    system: str | None = None
    machine: str | None = None
    bundle: str = "BUNDLE"
    precision: str = "fp32"

    @classmethod
    def of_entry(cls, entry: BundleTarget, *, bundle: str = "BUNDLE", precision: str = "fp32") -> EngineNeeds:
        """From what a manifest says of an engine."""
        built_on = entry.facts.get("platform")
        known = built_on if isinstance(built_on, dict) else {}
        return cls(
            target=entry.name,
            backend=entry.backend,
            version=entry.version,
            compute_capabilities=entry.compute_capabilities,
            system=known.get("system"),
            machine=known.get("machine"),
            bundle=bundle,
            precision=precision,
        )

    @property
    def portable_system(self) -> bool:
        """TensorRT-RTX plans built ahead of time run on Linux and on Windows (its documentation, "CPU-Only AOT");
        plans for the GPU at hand, and all of TensorRT, only where they were built."""
        return self.backend == "tensorrt_rtx" and self.target != "rtx:current"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where a plan is to run; `version` is that of the backend, None where it is not installed."""

    version: str | None
    compute_capability: str | None
    system: str
    machine: str

    @classmethod
    def here(cls, version: str | None) -> Machine:
        return cls(version=version, compute_capability=compute_capability(), **platform_facts())


def platform_facts() -> dict[str, str]:
    """`system` and `machine` as Python names them: Linux, x86_64."""
    return {"system": platform.system(), "machine": platform.machine()}


def check_fit(needs: EngineNeeds, here: Machine) -> None:
    """Raises ExportError, with the command that rebuilds the plan, where it was built for another machine."""
    problems = misfits(needs, here)
    if problems:
        raise ExportError(
            f"the engine for '{needs.target}' cannot run on this machine: {'; '.join(problems)}",
            hint=f"{_remedy(needs, here)}; or use --runtime onnxruntime",
        )


def misfits(needs: EngineNeeds, here: Machine) -> list[str]:
    """Everything that differs, in words; empty where the plan fits."""
    found = []
    if here.version is not None and not _same_version(needs.version, here.version):
        found.append(f"it was built with {needs.backend} {needs.version}, and {here.version} is installed")
    if not fits_gpu(needs, here.compute_capability):
        made_for = ", ".join(needs.compute_capabilities) or f"{', '.join(PORTABLE)} and {LATER} or later"
        found.append(f"it is for compute capability {made_for}, and this GPU has {here.compute_capability}")
    if not _same_platform(needs, here):
        built, now = f"{needs.system} {needs.machine}", f"{here.system} {here.machine}"
        found.append(f"it was built on {built}, and this is {now}")
    return found


def fits_gpu(needs: EngineNeeds, capability: str | None) -> bool:
    """Whether the plan is for a GPU of this compute capability; never without a GPU."""
    if capability is None or needs.compute_capabilities:
        return capability in needs.compute_capabilities
    return needs.backend != "tensorrt_rtx" or portable_to(capability)


def portable_to(capability: str) -> bool:
    """Whether a portable TensorRT-RTX plan runs on GPUs of this compute capability."""
    return capability in PORTABLE or at_least(capability, LATER)


def rtx_supports(capability: str) -> bool:
    """Whether TensorRT-RTX is made for GPUs of this compute capability: the portable set, and Turing."""
    return portable_to(capability) or capability == TURING


def _remedy(needs: EngineNeeds, here: Machine) -> str:
    """The command that rebuilds the plan here; of a precision that no target has here, there is none."""
    gpu = here.compute_capability
    by_rtx = needs.backend == "tensorrt_rtx" and gpu is not None and rtx_supports(gpu)
    named = (rebuild_target(needs, here), "rtx:current" if by_rtx else "trt11")
    chosen = next((name for name in named if not lacks(TARGETS[name], needs.precision, gpu)), None)
    if chosen is None:
        return f"no target runs {needs.precision} on this GPU: build the model in another precision"
    return f"build it here: dsr-export compile {needs.bundle} --target {chosen}"


def rebuild_target(needs: EngineNeeds, here: Machine) -> str:
    """The target to compile for here: the same one where it can be, else the nearest that fits this machine."""
    same = TARGETS.get(needs.target)
    gpu = here.compute_capability
    if needs.backend == "tensorrt_rtx" and gpu is not None and not rtx_supports(gpu):
        return _tensorrt_target(installed_version("tensorrt"))  # no TensorRT-RTX on this GPU at all
    if same is None or same.compute_capability not in (None, "current", gpu) or not _accepts(needs, here):
        return _nearest(needs, here)
    if same.compute_capability is None and same.backend == "tensorrt_rtx" and gpu is not None and not portable_to(gpu):
        return "rtx:current"  # Turing: supported, but no part of the portable set
    return same.name


def _nearest(needs: EngineNeeds, here: Machine) -> str:
    if needs.backend == "tensorrt_rtx":
        return "rtx:current" if here.compute_capability == TURING else "rtx"
    return _tensorrt_target(here.version)


def _accepts(needs: EngineNeeds, here: Machine) -> bool:
    return here.version is None or TARGETS[needs.target].accepts_version(here.version)


def _tensorrt_target(version: str | None) -> str:
    return "trt11" if version is not None and TARGETS["trt11"].accepts_version(version) else "trt10"


def _same_version(built: str, here: str) -> bool:
    """Every number both name must agree: packages of one release write it with three numbers or with four."""
    numbers = [re.findall(r"\d+", version) for version in (built, here)]
    return all(a == b for a, b in zip(*numbers, strict=False))


def _same_platform(needs: EngineNeeds, here: Machine) -> bool:
    if needs.system is None or needs.machine is None:
        return True
    same_system = needs.system == here.system or (
        needs.portable_system and {needs.system, here.system} <= {"Linux", "Windows"}
    )
    return same_system and _machine(needs.machine) == _machine(here.machine)


def _machine(name: str) -> str:
    return _SAME_MACHINE.get(name.lower(), name.lower())
