"""What is installed, and for each target whether it can be built and run here."""

from __future__ import annotations

from typing import Any

from dsr_export.backends.cuda.diagnosis import cuda_provider_problem
from dsr_export.backends.gpu import compute_capability, gpu_available, gpu_problem
from dsr_export.backends.opening import runs_here
from dsr_export.backends.tensorrt.vendor import installed_version
from dsr_export.errors import ExportError
from dsr_export.storage.cache import cache_root
from dsr_export.storage.made_with import tool_versions
from dsr_export.torch_versions import torch_problem
from graphs.precisions import PRECISIONS
from graphs.target_precisions import lacks
from graphs.targets import BUILDS_ANYWHERE, TARGETS, Target, default_target

BINDINGS = "cuda-bindings"
"""What calls the GPU's driver: it changes no result, and must not be of a newer CUDA than the driver."""
PACKAGES = (
    *("dsr-export", "python", "torch", "onnx", "onnxruntime-gpu", "onnxruntime", "onnx-graphsurgeon"),
    *("polygraphy", "tensorrt-rtx", "tensorrt", BINDINGS),
)
EXTRAS = {"tensorrt_rtx": "rtx", "tensorrt": "tensorrt"}


def describe_installation() -> dict[str, Any]:
    """Versions (None where not installed), the GPU, the cache folder, and every target: its status in words, and the
    precisions that it takes (where it is for the GPU at hand and none is, those that some GPU takes).

    `gpu_problem` and `cuda_provider_problem` are why no engine, and no graph with `--runtime onnxruntime-cuda`, runs on
    a GPU here; None where nothing is known to be missing. `torch_problem` is why the installed torch is not one that is
    taken; None where it is, or none is installed.
    """
    versions = {**tool_versions(), BINDINGS: installed_version(BINDINGS)}
    default, gpu = default_target()[0].name, compute_capability()
    return {
        "packages": {name: versions.get(name) for name in PACKAGES},
        "torch_problem": torch_problem(versions.get("torch")),
        "gpu": gpu_available(),
        "gpu_problem": gpu_problem(),
        "cuda_provider_problem": cuda_provider_problem(),
        "compute_capability": gpu,
        "cache": str(cache_root()),
        "targets": [
            {
                "name": target.name,
                "status": _status(target),
                "default": target.name == default,
                "precisions": [name for name in PRECISIONS if not lacks(target, name, gpu)],
            }
            for target in TARGETS.values()
        ],
    }


def check_buildable(target: Target) -> None:
    """Raises `ExportError` where `target`'s package is missing or unfit, or there is no GPU to build on."""
    problem = _missing(target)
    if problem is not None:
        raise ExportError(f"target '{target.name}' {problem[0]}", hint=problem[1])


def _status(target: Target) -> str:
    problem = _missing(target)
    if problem is not None:
        return "; ".join(problem)
    return "builds and runs here" if target.backend == "onnxruntime" or runs_here(target) else "builds here"


def _missing(target: Target) -> tuple[str, str] | None:
    """What keeps `target` from being built here, and the way out."""
    if target.backend == "onnxruntime":
        return None
    version = installed_version(target.backend)
    needed = (target.backend, "polygraphy", *([BINDINGS] if gpu_available() else []))  # the last one to run it
    missing = next((package for package in needed if installed_version(package) is None), None)
    if version is None or missing is not None:
        return f"needs the package {missing}", _remedy(target)
    if not target.accepts_version(version):
        return f"needs {target.backend} {target.version}, and {version} is installed", "install that version"
    if target.needs_gpu_to_build and compute_capability() is None:
        remedy = f"on the device: dsr-export compile BUNDLE --target {target.name}; {BUILDS_ANYWHERE}"
        return "is built on its own GPU, and there is none here", remedy
    return None


def _remedy(target: Target) -> str:
    install = f"pip install 'dsr-export[{EXTRAS[target.backend]}]'"
    if target.name != "jetson-orin":
        return install
    return f"JetPack brings tensorrt: python3 -m venv --system-site-packages, then {install}"
