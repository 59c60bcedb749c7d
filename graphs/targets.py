"""Where a model will run: backend, version, compute capability, opset, and the ops that cannot go there."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import onnx

from graphs.errors import ExportError, did_you_mean
from graphs.files import load_model
from graphs.names import module_of
from graphs.op_limits import ENGINE_OPS, RTX_MISSING, limited_uses
from graphs.precisions import FLOAT4
from graphs.stage_specs import ENGINE_DOMAIN, STANDARD_DOMAINS, is_engine_op

Backend = Literal["onnxruntime", "tensorrt_rtx", "tensorrt"]
BUILDS_ANYWHERE = "--target rtx builds anywhere, and so does one for named GPUs, such as rtx:sm89"
NAMES_SHOWN = 20  # per reason; a model of 28 blocks repeats its mistakes


@dataclass(frozen=True, kw_only=True)
class Target:
    """One place to run.

    `version` constrains the backend's version (`">=10.3,<11"`). `compute_capability` is the one an engine is built for:
    `"8.9"`, `"current"` for the GPU at hand, None for portable. `opset` is the newest the target reads. `unsupported`
    maps an op type to the reason and the way out.
    """

    name: str
    backend: Backend
    version: str | None = None
    compute_capability: str | None = None
    opset: int = 20
    unsupported: Mapping[str, str] = field(default_factory=dict)

    @property
    def needs_gpu_to_build(self) -> bool:
        """TensorRT-RTX builds for a named GPU ahead of time; everything else compiles on the device itself."""
        return self.backend == "tensorrt" or (self.backend == "tensorrt_rtx" and self.compute_capability == "current")

    @property
    def oldest_version(self) -> str | None:
        """The oldest that fulfils the constraint; None where any does."""
        parts = [part.strip() for part in (self.version or "").split(",")]
        return next((part.removeprefix(">=") for part in parts if part.startswith(">=")), None)

    def accepts_version(self, version: str) -> bool:
        """Whether `version` (`"10.3.0.26"`) fulfils the constraint, whose parts are `>=` and `<`."""
        parts = [part.strip() for part in (self.version or "").split(",") if part.strip()]
        return all(_fulfils(_numbers(version), part) for part in parts)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(digits) for digits in re.findall(r"\d+", version))


def _fulfils(version: tuple[int, ...], constraint: str) -> bool:
    if constraint.startswith(">="):
        return version >= _numbers(constraint)
    return version < _numbers(constraint)


def _rtx(name: str, capability: str | None) -> Target:
    return Target(
        name=name,
        backend="tensorrt_rtx",
        version=">=1.3,<2",
        compute_capability=capability,
        opset=23,
        unsupported=MappingProxyType({**ENGINE_OPS, **RTX_MISSING}),
    )


def _tensorrt(name: str, version: str, capability: str, opset: int) -> Target:
    return Target(
        name=name,
        backend="tensorrt",
        version=version,
        compute_capability=capability,
        opset=opset,
        unsupported=ENGINE_OPS,
    )


TARGETS: Mapping[str, Target] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            Target(name="onnxruntime", backend="onnxruntime", version=">=1.22", opset=23),
            _rtx("rtx", None),
            _rtx("rtx:sm80", "8.0"),
            _rtx("rtx:sm86", "8.6"),
            _rtx("rtx:sm89", "8.9"),
            _rtx("rtx:sm120", "12.0"),
            _rtx("rtx:sm121", "12.1"),
            _rtx("rtx:current", "current"),
            _tensorrt("trt10", ">=10.3,<11", "current", 20),
            _tensorrt("trt11", ">=11,<12", "current", 25),
            _tensorrt("jetson-orin", ">=10.3,<10.4", "8.7", 20),  # JetPack 6.1 and 6.2
        )
    }
)
"""Every target, by name."""


def target(name: str) -> Target:
    """The target of that name. Raises `ExportError` with the nearest name and all of them."""
    if name in TARGETS:
        return TARGETS[name]
    guess = did_you_mean(name, TARGETS)
    known = "known targets: " + ", ".join(TARGETS)
    raise ExportError(f"there is no target '{name}'", hint=f"{guess} {known}" if guess else known)


def default_target() -> tuple[Target, str]:
    """`rtx` where its package is installed, else `onnxruntime`; and the reason, to be said aloud."""
    if importlib.util.find_spec("tensorrt_rtx") is not None:
        return TARGETS["rtx"], "the package tensorrt_rtx is installed"
    return TARGETS["onnxruntime"], "the package tensorrt_rtx is not installed"


def check_model(model: Path | onnx.ModelProto, target: Target) -> None:
    """Checks a model against the target's op table, before anything is built.

    Raises:
        ExportError: a newer opset than the target reads, or unsupported nodes: each with its name (which carries the
            PyTorch module path), its op, the reason and the way out.
    """
    folder = str(model.parent) if isinstance(model, Path) else ""
    proto = load_model(model, weights=False) if isinstance(model, Path) else model
    _check_opset(proto, target)
    problems = list(_problems(proto, target, folder))
    if problems:
        raise ExportError(
            f"{len(problems)} nodes cannot run on target '{target.name}': {_listed(problems)}",
            hint=f"change the model as said there{or_in_onnxruntime(proto)}",
        )


def or_in_onnxruntime(model: onnx.ModelProto) -> str:
    """The way out that is left for what an engine can't do; none for codes that ONNX Runtime has no kernels for."""
    four = any(each.data_type == FLOAT4 for each in model.graph.initializer)
    return "" if four or any(map(is_engine_op, model.graph.node)) else ", or build with --target onnxruntime"


def _check_opset(model: onnx.ModelProto, target: Target) -> None:
    version = max((entry.version for entry in model.opset_import if entry.domain in STANDARD_DOMAINS), default=1)
    if version > target.opset:
        raise ExportError(
            f"the model is ONNX opset {version}, and target '{target.name}' reads up to {target.opset}",
            hint=f"export it with opset {min(target.opset, 20)}, which every target reads",
        )


def _problems(model: onnx.ModelProto, target: Target, folder: str) -> Iterable[tuple[onnx.NodeProto, str]]:
    for node in model.graph.node:
        if is_engine_op(node) and target.backend != "onnxruntime":
            continue
        if node.domain not in STANDARD_DOMAINS:
            yield node, _foreign(node.domain)
        elif node.op_type in target.unsupported:
            yield node, target.unsupported[node.op_type]
    if target.backend != "onnxruntime":
        yield from limited_uses(model, folder)


def _foreign(domain: str) -> str:
    if domain == "dsr":
        return "a symbolic dsr op that was never lowered; build from the model, not from its traced graph"
    if domain == ENGINE_DOMAIN:
        return "an op that only TensorRT knows; build for an engine"
    if domain.startswith(("com.microsoft", "ai.onnxruntime")):
        return "a contrib op that only ONNX Runtime knows; export without ONNX Runtime's optimisations"
    return f"the domain '{domain}' is not standard ONNX; rewrite it with standard ops"


def _listed(problems: list[tuple[onnx.NodeProto, str]]) -> str:
    """`OP: reason: node (module M), node (module M)` for each op and reason."""

    def key(problem: tuple[onnx.NodeProto, str]) -> tuple[str, str]:
        return problem[0].op_type, problem[1]

    groups = []
    for (op, reason), group in groupby(sorted(problems, key=key), key):
        names = [node.name or f"(unnamed, makes {node.output[0]})" for node, _ in group]
        shown = ", ".join(f"{name} (module {module_of(name)})" for name in names[:NAMES_SHOWN])
        more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        groups.append(f"{op}: {reason}: {shown}{more}")
    return "; ".join(groups)
