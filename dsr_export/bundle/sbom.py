"""`sbom.cdx.json`: what a bundle is made of, as CycloneDX 1.6 JSON (https://cyclonedx.org/docs/1.6/json/).

Made of the manifest and the files alone: the same bundle has the same bytes, so there is no time in it.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dsr_export.bundle.component_entries import FOLDER
from dsr_export.bundle.manifest import Manifest
from dsr_export.bundle.writer import Content
from dsr_export.storage.disk import Recorded
from graphs.digests import bytes_digest, files_digest

SBOM = "sbom.cdx.json"
_MODEL = "model"
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://cyclonedx.org/schema/bom-1.6.schema.json")


def sbom(manifest: Manifest, contents: Mapping[str, Content]) -> bytes:
    """Of a bundle with this manifest (its file list is not read) and these files, the components' own among them."""
    digests = {name: _sha256(content) for name, content in sorted(contents.items()) if name != SBOM}
    parts = [*_files(digests), *_sources(manifest.provenance), *_runtimes(manifest)]
    tools = [_package(name, version) for name, version in sorted(manifest.tools.items())]
    body = {
        "metadata": {"tools": {"components": tools}, "component": _model(manifest)},
        "components": parts,
        "dependencies": [{"ref": _MODEL, "dependsOn": sorted(part["bom-ref"] for part in parts)}],
    }
    text = json.dumps(body, sort_keys=True)
    head = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, text)}",
        "version": 1,
    }
    return json.dumps({**head, **body}, indent=1).encode() + b"\n"


def _model(manifest: Manifest) -> dict[str, Any]:
    said = {"build_key": manifest.build_key, "family": manifest.model["family"], "precision": manifest.precision}
    return {
        "type": "machine-learning-model",
        "bom-ref": _MODEL,
        "name": manifest.name,
        "version": manifest.build_key[:12],
        "properties": [{"name": f"dsr-export:{key}", "value": str(value)} for key, value in sorted(said.items())],
    }


def _files(digests: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    for name, digest in digests.items():
        inside = name.startswith(f"{FOLDER}/")
        kind = "machine-learning-model" if name.endswith(".onnx") else "file"
        of = {"group": "/".join(name.split("/")[:2])} if inside else {}
        yield {"type": kind, "bom-ref": f"file:{name}", "name": name, **of, "hashes": [_hash(digest)]}


def _sources(provenance: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What the model was made from, where the manifest knows its checksum: `checkpoint_sha256` and the like."""
    for key, value in sorted(provenance.items()):
        if key.endswith("_sha256") and isinstance(value, str) and len(value) == 64:
            name = key.removesuffix("_sha256")
            yield {"type": "data", "bom-ref": f"source:{name}", "name": name, "hashes": [_hash(value)]}


def _runtimes(manifest: Manifest) -> Iterator[dict[str, Any]]:
    """What the targets run on, each version once: it is needed, and no part of the bundle."""
    for backend, version in sorted({(target.backend, target.version) for target in manifest.targets}):
        yield {"type": "library", "bom-ref": f"runtime:{backend}@{version}", "name": backend, "version": version}


def _package(name: str, version: str) -> dict[str, Any]:
    kind = "application" if name in ("dsr-export", "python") else "library"
    purl = {} if name == "python" else {"purl": f"pkg:pypi/{quote(name.lower())}@{quote(version, safe='')}"}
    return {"type": kind, "name": name, "version": version, **purl}


def _hash(digest: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": digest}


def _sha256(content: Content) -> str:
    if isinstance(content, bytes):
        return bytes_digest(content)
    return content.sha256 if isinstance(content, Recorded) else files_digest([Path(content)])
