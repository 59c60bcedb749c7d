"""The kinds of engines that the suite runs: portable ones of TensorRT-RTX, its own for a GPU, and TensorRT's."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from dsr_export.backends.tensorrt.engine_fit import portable_to, rtx_supports
from dsr_export.backends.tensorrt.vendor import installed_version, load_vendor
from dsr_export.errors import ExportError
from graphs.targets import Target, target

KINDS = ("rtx", "rtx:current", "tensorrt")


@dataclass(frozen=True)
class EngineKind:
    """One that is installed here. `supported` says whether its makers have it run on the GPU at hand."""

    target: Target
    supported: bool

    @property
    def runtime(self) -> str:
        return self.target.backend.replace("_", "-")


def engine_kind(name: str, capability: str) -> EngineKind:
    """Skips, with the reason, where the package is missing, or the portable engine is for other GPUs."""
    if name == "tensorrt":
        version = installed_version("tensorrt")
        found = [each for each in map(target, ("trt10", "trt11")) if version and each.accepts_version(version)]
        if not found:
            pytest.skip(f"needs the package tensorrt 10 or 11, and here it is {version or 'not installed'}")
        _need("polygraphy", "tensorrt")
        return EngineKind(found[0], True)
    need_rtx()
    if name == "rtx" and not portable_to(capability):
        pytest.skip(f"portable TensorRT-RTX engines are not for compute capability {capability}")
    return EngineKind(target(name), rtx_supports(capability))


def need_rtx() -> None:
    """Skips where the packages are missing. Polygraphy is not imported: it would choose TensorRT for this process."""
    _need("tensorrt_rtx", "rtx")
    _need("polygraphy", "rtx")


def _need(package: str, extra: str) -> None:
    if installed_version(package) is None:
        pytest.skip(f"needs the package {package}, of the {extra} extra")


def opened_here(kind: EngineKind) -> EngineKind:
    """For what runs an engine in this process. Skips where TensorRT-RTX does not know the GPU, or the process has
    already loaded the other one of the two: Polygraphy takes one alone."""
    if not kind.supported:
        pytest.skip("TensorRT-RTX does not support this GPU")
    try:
        load_vendor(kind.target.backend)
    except ExportError as error:
        pytest.skip(f"{error.message}: run it by itself, with -k '{kind.target.backend}'")
    return kind
