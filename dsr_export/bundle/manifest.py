"""`manifest.json`: what a bundle holds, for whom it was built, and the checksum of every other file.

It is canonical JSON with a `digest` of itself (a promise for every schema version), so that one flipped byte in any
file of the bundle, this one included, is found and named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, cast

from dsr_export.bundle import manifest_parts as parts
from dsr_export.bundle.component_entries import ComponentEntry, read_components
from dsr_export.bundle.manifest_parts import BundleTarget, FileEntry
from dsr_export.bundle.pipeline_record import PipelineRecord, read_pipeline
from dsr_export.bundle.schema import Fields
from dsr_export.config import BatchRange
from dsr_export.errors import ExportError
from dsr_export.sampling import SamplerSpec
from dsr_export.storage.canonical import canonical_digest, parse_sealed, sealed_bytes
from graphs.artifacts import TensorSpec
from graphs.precisions import PRECISIONS, Precision

SCHEMA_VERSION = 1
OPTIONAL = ("components", "pipeline")  # bundles of one model are written without

__all__ = ["SCHEMA_VERSION", "BundleTarget", "ComponentEntry", "FileEntry", "Manifest"]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything a reader needs to know. Mappings hold JSON values.

    `model` has the keys of `manifest_parts.MODEL_KEYS`; `sampler` the fields of `SamplerSpec`; `tolerances` those of
    `Tolerance`; `components` are the other models of a pipeline, by role, and `pipeline` is what holds them together.
    `files` stays empty in what `write_bundle` is given: the writer measures them.
    """

    name: str
    model: Mapping[str, Any]
    dsr: Mapping[str, Any]
    precision: Precision
    targets: tuple[BundleTarget, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch: BatchRange
    sampler: Mapping[str, Any] | None
    tolerances: Mapping[str, Any]
    tools: Mapping[str, str]
    provenance: Mapping[str, Any]
    build_key: str
    range_audit: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, FileEntry] = field(default_factory=dict)
    components: Mapping[str, ComponentEntry] = field(default_factory=dict)
    pipeline: PipelineRecord | None = None
    schema_version: int = SCHEMA_VERSION

    def as_dict(self) -> dict[str, Any]:
        """As JSON values, without the digest."""
        plain = {each.name: getattr(self, each.name) for each in fields(self)}
        for key in ("targets", "inputs", "outputs"):
            plain[key] = [asdict(item) for item in plain[key]]
        for key in ("files", "components"):
            plain[key] = {name: asdict(entry) for name, entry in plain[key].items()}
        plain["batch"] = asdict(self.batch)
        plain["pipeline"] = None if self.pipeline is None else asdict(self.pipeline)
        return {key: value for key, value in plain.items() if value or key not in OPTIONAL}

    @property
    def digest(self) -> str:
        """What the manifest is sealed with: it stands for every byte of the bundle."""
        return canonical_digest(self.as_dict())

    def to_bytes(self) -> bytes:
        """The file's content. ExportError where a field holds what JSON has no form for."""
        return sealed_bytes(self.as_dict())

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str | Path) -> Manifest:
        """Reads a manifest strictly.

        Raises:
            ExportError: naming `where`, the field and what was expected; also for any byte form other than the one
                `to_bytes` writes, another digest, or a schema version this code does not know.
        """
        value = parse_sealed(data, where=where)
        version = value.get("schema_version")
        if type(version) is not int or version != SCHEMA_VERSION:
            raise ExportError(
                f"{where} has schema version {str(version)[:20]!r}, this dsr-export reads {SCHEMA_VERSION}",
                hint="use the dsr-export that wrote the bundle, or build the bundle again with this one",
            )
        keys = [each.name for each in fields(cls) if each.name in value or each.name not in OPTIONAL]
        return _manifest(Fields.of(value, at=str(where), keys=keys))

    def input_specs(self) -> tuple[TensorSpec, ...]:
        return self.inputs

    def batch_range(self) -> BatchRange:
        return self.batch

    def sampler_spec(self) -> SamplerSpec | None:
        """How the model is sampled; None for a model that is no denoiser."""
        return None if self.sampler is None else SamplerSpec(**self.sampler)


def _manifest(read: Fields) -> Manifest:
    files = parts.read_files(read)
    return Manifest(
        name=read.text("name", longest=parts.LONGEST_NAME),
        model=parts.read_model(read),
        dsr=read.mapping("dsr"),
        precision=cast(Precision, read.choice("precision", tuple(PRECISIONS))),
        targets=parts.read_targets(read, files),
        inputs=parts.read_tensors(read, "inputs"),
        outputs=parts.read_tensors(read, "outputs"),
        batch=parts.read_batch(read),
        sampler=parts.read_sampler(read),
        tolerances=parts.read_tolerances(read),
        tools=parts.read_tools(read),
        provenance=read.mapping("provenance"),
        build_key=read.text("build_key", longest=parts.LONGEST_NAME),
        range_audit=read.mapping("range_audit"),
        files=files,
        components=read_components(read, files),
        pipeline=read_pipeline(read, files),
    )
