"""The parts of a manifest and how each is read: exact keys, exact types, bounded values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dsr_export.bundle.paths import check_path_set
from dsr_export.bundle.schema import Fields
from dsr_export.config import BatchRange
from dsr_export.limits import MOST_BATCH, MOST_STEPS
from graphs.artifacts import TensorSpec

LONGEST_NAME = 256
MAX_FILE_SIZE = 2**42 - 1
MAX_BATCH = MOST_BATCH
MAX_DIM = 2**31 - 1
MAX_STEPS = MOST_STEPS

MODEL_KEYS = ("name", "family", "config", "num_classes")
TARGET_KEYS = ("name", "backend", "version", "compute_capabilities", "engine", "facts")
TENSOR_KEYS = ("name", "dtype", "shape")
SAMPLER_KEYS = ("num_steps", "prediction", "shift_dim", "shift_base", "guidance", "null_label")
SAMPLER_OPTIONAL = ("path", "noise_scale")  # bundles of the linear path were written without them
TOLERANCE_BOUNDS = {"max_abs": (0.0, 1e9), "cosine": (-1.0, 1.0), "psnr_db": (-300.0, 300.0), "snr_db": (-300.0, 300.0)}
"""Metric -> what it can be at all; 300 dB stand for equality."""
TOLERANCE_KEYS = (*TOLERANCE_BOUNDS, "reason")
LARGEST_FACTOR = 1e6  # of guidance, and of the noise's scale
DTYPES = frozenset(
    {"bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"}
    | {"float16", "bfloat16", "float32", "float64"}
)

_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """Checksum (hexadecimal) and size in bytes of one file."""

    sha256: str
    size: int


@dataclass(frozen=True, kw_only=True)
class BundleTarget:
    """What the bundle was built for. `engine` is a file of the bundle, None where the runtime takes the ONNX graph.

    `version` is the backend's; `facts` (JSON values) is what only the build could tell about the engine.
    """

    name: str
    backend: str
    version: str
    compute_capabilities: tuple[str, ...] = ()
    engine: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


def read_model(manifest: Fields) -> dict[str, Any]:
    model = manifest.child("model", MODEL_KEYS)
    model.text("name")
    model.text("family")
    model.mapping("config")
    model.integer("num_classes", 0, MAX_DIM)
    return dict(model.values)


def read_files(manifest: Fields) -> dict[str, FileEntry]:
    """Every file but the manifest; paths are safe to join to the bundle's folder."""
    listed = Fields(manifest.name("files"), manifest.mapping("files"))
    check_path_set(listed.values, where=listed.at)
    return {path: _file_entry(listed.child(path, ("sha256", "size"))) for path in listed.values}


def read_targets(manifest: Fields, files: Mapping[str, FileEntry]) -> tuple[BundleTarget, ...]:
    """At least one; names differ, engines are listed files."""
    targets = tuple(_target(read, files) for read in manifest.children("targets", TARGET_KEYS, most=64))
    if len({target.name for target in targets}) != len(targets) or not targets:
        manifest.fail("targets", "at least one target, each name once")
    return targets


def read_tensors(manifest: Fields, key: str) -> tuple[TensorSpec, ...]:
    """At least one; names differ. Static axes are at least 1."""
    tensors = tuple(_tensor(read) for read in manifest.children(key, TENSOR_KEYS, most=64))
    if len({tensor.name for tensor in tensors}) != len(tensors) or not tensors:
        manifest.fail(key, "at least one tensor, each name once")
    return tensors


def read_batch(manifest: Fields) -> BatchRange:
    batch = manifest.child("batch", ("min", "opt", "max"))
    low, opt, high = (batch.integer(key, 1, MAX_BATCH) for key in ("min", "opt", "max"))
    if not low <= opt <= high:
        manifest.fail("batch", "min <= opt <= max")
    return BatchRange(low, opt, high)


def read_sampler(manifest: Fields) -> dict[str, Any] | None:
    """The fields of `SamplerSpec`, or None."""
    if manifest.values["sampler"] is None:
        return None
    given = manifest.mapping("sampler")
    sampler = manifest.child("sampler", (*SAMPLER_KEYS, *(key for key in SAMPLER_OPTIONAL if key in given)))
    sampler.integer("num_steps", 2, MAX_STEPS)
    _read_path(sampler)
    sampler.integer("shift_dim", 1, MAX_DIM)
    sampler.integer("shift_base", 1, MAX_DIM)
    sampler.number("guidance", -LARGEST_FACTOR, LARGEST_FACTOR)
    if sampler.values["null_label"] is not None:
        sampler.integer("null_label", 0, MAX_DIM)
    return dict(sampler.values)


def _read_path(sampler: Fields) -> None:
    """What is predicted, along which path; some pairs have no sampler."""
    prediction = sampler.choice("prediction", ("data", "velocity", "epsilon"))
    path = sampler.choice("path", ("linear", "reversed", "ddpm")) if "path" in sampler.values else "linear"
    if (prediction == "epsilon") != (path == "ddpm"):
        sampler.fail("prediction", "'epsilon' with the path 'ddpm', and only with it")
    if "noise_scale" in sampler.values and not sampler.number("noise_scale", 0, LARGEST_FACTOR) > 0:
        sampler.fail("noise_scale", "a positive number")


def read_tolerances(manifest: Fields) -> dict[str, Any]:
    """The fields of `Tolerance`: metric -> bound, where `max_abs` may be None for unbounded; `reason` is text."""
    bounds = manifest.child("tolerances", TOLERANCE_KEYS)
    bounds.text("reason")
    for metric, (low, high) in TOLERANCE_BOUNDS.items():
        if metric != "max_abs" or bounds.values[metric] is not None:
            bounds.number(metric, low, high)
    return dict(bounds.values)


def read_tools(manifest: Fields) -> dict[str, str]:
    tools = Fields(manifest.name("tools"), manifest.mapping("tools"))
    return {tool: tools.text(tool) for tool in tools.values}


def read_sha256(entry: Fields, key: str) -> str:
    digest = entry.text(key)
    if not _SHA256.fullmatch(digest):
        entry.fail(key, "64 hexadecimal digits")
    return digest


def _file_entry(entry: Fields) -> FileEntry:
    return FileEntry(sha256=read_sha256(entry, "sha256"), size=entry.integer("size", 0, MAX_FILE_SIZE))


def _target(read: Fields, files: Mapping[str, FileEntry]) -> BundleTarget:
    engine = read.values["engine"]
    if engine is not None and (not isinstance(engine, str) or engine not in files or not engine.startswith("engines/")):
        read.fail("engine", "null or a listed file under engines/")
    return BundleTarget(
        name=read.text("name", longest=LONGEST_NAME),
        backend=read.text("backend", longest=LONGEST_NAME),
        version=read.text("version", longest=LONGEST_NAME),
        compute_capabilities=tuple(read.texts("compute_capabilities")),
        engine=engine,
        facts=read.mapping("facts"),
    )


def _tensor(read: Fields) -> TensorSpec:
    shape = read.items("shape", most=16)
    for dim in shape:
        if not _is_dim(dim):
            read.fail("shape", f"a list of integers from 1 to {MAX_DIM} and names")
    return TensorSpec(name=read.text("name"), dtype=read.choice("dtype", DTYPES), shape=tuple(shape))


def _is_dim(dim: object) -> bool:
    if isinstance(dim, str):
        return 0 < len(dim) <= LONGEST_NAME
    return type(dim) is int and 1 <= dim <= MAX_DIM
