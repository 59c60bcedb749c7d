"""The one module that imports TensorRT, TensorRT-RTX and Polygraphy: all of them quietly, and only when asked for.

TensorRT-RTX and TensorRT 10 and 11 have the same API names, so that everything else runs on one code path.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import os
import sys
import warnings
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from dsr_export.errors import ExportError, RunnerError

_IMPORTED = {"cuda-bindings": "cuda"}
"""Packages whose modules are called otherwise."""
EXTRAS = {"tensorrt_rtx": "rtx", "tensorrt": "tensorrt"}
_CHOICE = "POLYGRAPHY_USE_TENSORRT_RTX"
_SILENT = 100  # above every severity of Polygraphy's logger
_MESSAGES_KEPT = 200


@dataclass
class VendorLog:
    """What TensorRT logged since `clear`, of severity WARNING and above; nothing of it is printed."""

    warnings: deque[str] = field(default_factory=lambda: deque(maxlen=_MESSAGES_KEPT))
    errors: deque[str] = field(default_factory=lambda: deque(maxlen=_MESSAGES_KEPT))
    interrupted: bool = False

    def take(self, severity: str, message: str) -> None:
        if severity in ("ERROR", "INTERNAL_ERROR"):
            self.errors.append(message)
        elif severity == "WARNING":
            self.warnings.append(message)

    def clear(self) -> None:
        self.warnings.clear()
        self.errors.clear()
        self.interrupted = False


@dataclass(frozen=True, kw_only=True)
class Vendor:
    """The loaded packages. `trt` is `tensorrt` or `tensorrt_rtx`; `logger` is its one logger, which fills `log`."""

    backend: str
    trt: Any
    polygraphy: Any  # polygraphy.backend.trt
    failure: type[Exception]  # PolygraphyException
    create_config: Any  # CreateConfigRTX or CreateConfig
    logger: Any
    log: VendorLog
    _verbosity: Any  # polygraphy.logger.G_LOGGER.verbosity

    @property
    def version(self) -> str:
        return str(self.trt.__version__)

    @property
    def polygraphy_version(self) -> str:
        return metadata.version("polygraphy")

    @contextlib.contextmanager
    def quietly(self) -> Iterator[VendorLog]:
        """Collects a fresh log, and keeps Polygraphy's messages and both packages' own deprecations away from users.

        Polygraphy calls functions that TensorRT-RTX deprecates (the timing cache, a no-op there since 1.2), and a
        warning that is turned into an error inside a binding surfaces as a SystemError.
        """
        self.log.clear()
        with warnings.catch_warnings(), self._verbosity(_SILENT):
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            try:
                yield self.log
            finally:
                if self.log.interrupted:
                    raise KeyboardInterrupt

    @contextlib.contextmanager
    def asked(self) -> Iterator[None]:
        """What the bindings raise within the block is a RunnerError, with what TensorRT logged of it."""
        try:
            yield
        except RuntimeError as error:
            raise RunnerError(f"the engine failed: {'; '.join(self.log.errors) or error}") from error


def load_vendor(backend: str) -> Vendor:
    """Imports what `backend` (`tensorrt_rtx` or `tensorrt`) needs, once.

    Raises:
        ExportError: a package is missing, or this process already uses the other backend.
    """
    extra = EXTRAS[backend]
    for package in (backend, "polygraphy"):
        if not _installed(package):
            raise ExportError(
                f"the package '{package}' is not installed, and target backend {backend} needs it",
                hint=f"pip install 'dsr-export[{extra}]'",
            )
    return _load(backend)


def installed_version(backend: str) -> str | None:
    """The version of the backend's package, or None where it is not installed; nothing is imported."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(backend) if _installed(backend) else None
    return None


def _installed(package: str) -> bool:
    package = _IMPORTED.get(package, package)
    if package in sys.modules:
        return sys.modules[package] is not None
    return importlib.util.find_spec(package) is not None


@functools.cache
def _load(backend: str) -> Vendor:
    rtx = backend == "tensorrt_rtx"
    _choose(rtx)
    trt = importlib.import_module(backend)
    from polygraphy.exception import PolygraphyException
    from polygraphy.logger import G_LOGGER

    with G_LOGGER.verbosity(_SILENT):
        from polygraphy.backend import trt as loaders
        from polygraphy.backend.trt import util

        if rtx:
            from polygraphy.backend.tensorrt_rtx import CreateConfigRTX as CreateConfig
        else:
            from polygraphy.backend.trt import CreateConfig
    log = VendorLog()
    # TensorRT keeps the first logger it is given for the whole process; Polygraphy would give it one that prints.
    util.TRT_LOGGER = _collecting_logger(trt, log)
    return Vendor(
        backend=backend,
        trt=trt,
        polygraphy=loaders,
        failure=PolygraphyException,
        create_config=CreateConfig,
        logger=util.TRT_LOGGER,
        log=log,
        _verbosity=G_LOGGER.verbosity,
    )


def _choose(rtx: bool) -> None:
    """Polygraphy reads its choice of backend when it is imported, and never again."""
    config = sys.modules.get("polygraphy.config")
    if config is None:
        os.environ[_CHOICE] = "1" if rtx else "0"
        config = importlib.import_module("polygraphy.config")
    if bool(config.USE_TENSORRT_RTX) != rtx:
        used, wanted = ("TensorRT", "TensorRT-RTX") if rtx else ("TensorRT-RTX", "TensorRT")
        raise ExportError(
            f"this process already uses Polygraphy with {used}, and cannot switch to {wanted}",
            hint="build the two targets with two commands; from Python, use a new process",
        )


def _collecting_logger(trt: Any, log: VendorLog) -> Any:
    class CollectingLogger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            try:
                log.take(severity.name, message)
            except KeyboardInterrupt:  # C++ calls this and ends the process on an exception; raised after the build
                log.interrupted = True

    return CollectingLogger()
