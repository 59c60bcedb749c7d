"""Why ONNX Runtime's CUDA provider does not start: the wheel, the driver, the GPU's memory, or a library."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import io
import re
from importlib import metadata
from pathlib import Path

from dsr_export.backends.gpu import gpu_problem
from dsr_export.errors import ExportError, RunnerError

PROVIDER = "CUDAExecutionProvider"
CPU_WAY_OUT = "use --runtime onnxruntime for the CPU"
_WHEELS = ("onnxruntime-gpu", "onnxruntime")
_LIBRARIES = ("libonnxruntime_providers_cuda.so", "onnxruntime_providers_cuda.dll")
_LACK = ("CUDA failure 2:", "out of memory", "STATUS_ALLOC_FAILED", "Failed to allocate memory")
_NOT_STARTED = re.compile(r"\w+_STATUS_NOT_INITIALIZED")
_MISSING = re.compile(r"^(\S+): cannot open shared object file")
_OLD_DRIVER = re.compile(r"CUDA (failure|error) 35\b|driver version is insufficient", re.IGNORECASE)


def no_provider(name: str, *, failed: bool = False) -> ExportError | None:
    """Why the provider `name` cannot start, with the way out; None where nothing speaks against it.

    With `failed` it was tried and left out, so that there is a reason in any case.
    """
    causes = [_of_wheel(name) or _of_library(), _of_driver()]
    if failed and not any(causes):
        causes.append(("its CUDA provider did not start", "update the NVIDIA driver, or install onnxruntime-gpu again"))
    found = [cause for cause in causes if cause is not None]
    if not found:
        return None
    hints = [hint for _, hint in found]
    return ExportError(
        f"ONNX Runtime cannot use a GPU here: {'; '.join(reason for reason, _ in found)}",
        hint="; ".join([*hints, f"or {CPU_WAY_OUT}"]),
    )


def cuda_provider_problem() -> str | None:
    """The same as a few words; nothing is started."""
    if importlib.util.find_spec("onnxruntime") is None:
        return "the package onnxruntime-gpu is not installed"
    find_libraries()
    found = no_provider(PROVIDER)
    return None if found is None else found.message


@functools.cache
def find_libraries() -> None:
    """CUDA and cuDNN as pip packages lie where no loader looks. What it prints of others is no news: see the error."""
    import onnxruntime

    if (preload := getattr(onnxruntime, "preload_dlls", None)) is not None:
        with contextlib.redirect_stdout(io.StringIO()):
            preload()


def out_of_memory(text: str) -> RunnerError | None:
    """The error of a runtime that ran out of the GPU's memory, or whose driver is too old; None of any other text."""
    if _OLD_DRIVER.search(text):
        return RunnerError(
            "the NVIDIA driver is too old for the CUDA version that the installed onnxruntime-gpu was built with",
            hint=f"update the driver, or install an older onnxruntime-gpu; or {CPU_WAY_OUT}",
        )
    hint = "end other processes that hold it (`nvidia-smi` lists them), or use a smaller batch"
    if any(word.lower() in text.lower() for word in _LACK):
        return RunnerError("the GPU has too little free memory for this model", hint=hint)
    if (found := _NOT_STARTED.search(text)) is not None:
        said = f"{found[0]}: a library of CUDA does not start, mostly for want of the GPU's memory"
        return RunnerError(said, hint=hint)
    return None


def _of_wheel(name: str) -> tuple[str, str] | None:
    import onnxruntime

    if name in onnxruntime.get_available_providers():
        return None
    installed = [wheel for wheel in _WHEELS if _version(wheel) is not None]
    if len(installed) > 1:
        return (
            f"{' and '.join(installed)} are both installed, one over the other's files, and no {name} is left",
            "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install onnxruntime-gpu",
        )
    what = " ".join([installed[0], str(_version(installed[0]))]) if installed else "onnxruntime"
    return (
        f"the installed {what} has no {name}",
        "pip uninstall -y onnxruntime, then pip install onnxruntime-gpu (on a Jetson: NVIDIA's wheel for its JetPack)",
    )


def _of_driver() -> tuple[str, str] | None:
    problem = gpu_problem()
    return None if problem is None else (problem, "install the driver, or pass the GPU into the container")


def _of_library() -> tuple[str, str] | None:
    """What the provider's own library lacks; whatever else it says, it may only say to this loader."""
    import onnxruntime

    folder = Path(onnxruntime.__file__).parent / "capi"
    library = next((folder / name for name in _LIBRARIES if (folder / name).is_file()), None)
    missing = None if library is None else _MISSING.match(_load_error(library))
    if missing is None:
        return None
    return f"{missing[1]} is missing, which its CUDA provider needs", 'pip install "onnxruntime-gpu[cuda,cudnn]"'


def _load_error(library: Path) -> str:
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        return str(error)
    return ""


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
