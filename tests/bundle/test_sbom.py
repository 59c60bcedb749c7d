"""`sbom.cdx.json`: what CycloneDX 1.6 asks for, every file with its checksum, the same bytes for the same bundle."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from dsr_export.bundle.manifest import Manifest
from dsr_export.bundle.sbom import SBOM, sbom
from dsr_export.storage.disk import Recorded

TYPES = {"application", "library", "file", "data", "machine-learning-model"}
SERIAL = re.compile(r"urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def checked(data: bytes) -> dict[str, Any]:
    """The document, held against the parts of the specification's schema that it uses."""
    made: dict[str, Any] = json.loads(data)
    assert set(made) == {"$schema", "bomFormat", "specVersion", "serialNumber", "version"} | {
        "metadata",
        "components",
        "dependencies",
    }
    assert (made["bomFormat"], made["specVersion"], made["version"]) == ("CycloneDX", "1.6", 1)
    assert SERIAL.fullmatch(made["serialNumber"])
    everything = [made["metadata"]["component"], *made["components"], *made["metadata"]["tools"]["components"]]
    for part in everything:
        assert {"type", "name"} <= set(part)
        assert set(part) <= {"type", "name", "version", "bom-ref", "group", "hashes", "purl", "properties"}
        assert part["type"] in TYPES
        for digest in part.get("hashes", []):
            assert set(digest) == {"alg", "content"} and digest["alg"] == "SHA-256"
            assert re.fullmatch(r"[0-9a-f]{64}", digest["content"])
    refs = [part["bom-ref"] for part in everything if "bom-ref" in part]
    assert len(set(refs)) == len(refs)
    for entry in made["dependencies"]:
        assert entry["ref"] in refs and set(entry["dependsOn"]) <= set(refs)
        assert len(set(entry["dependsOn"])) == len(entry["dependsOn"])
    return made


def test_every_file_tool_and_runtime_is_in_it(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "graph").write_bytes(b"graph")
    (tmp_path / "plan").write_bytes(b"plan")
    contents = {
        "model.onnx": tmp_path / "graph",
        "engines/rtx.plan": Recorded(tmp_path / "plan", hashlib.sha256(b"plan").hexdigest()),
        "components/decoder/model.onnx": b"decoder",
        SBOM: b"an older one",
    }
    manifest = replace(manifest, provenance={"checkpoint_sha256": "ab" * 32, "git_revision": None})
    manifest = replace(manifest, tools={"numpy": "2.4.6", "torch": "2.13.0+cpu", "python": "3.11.7"})
    made = checked(sbom(manifest, contents))
    parts = {part["bom-ref"]: part for part in made["components"]}
    hashes = {ref: part["hashes"][0]["content"] for ref, part in parts.items() if "hashes" in part}
    assert hashes == {
        "file:model.onnx": hashlib.sha256(b"graph").hexdigest(),
        "file:engines/rtx.plan": hashlib.sha256(b"plan").hexdigest(),
        "file:components/decoder/model.onnx": hashlib.sha256(b"decoder").hexdigest(),
        "source:checkpoint": "ab" * 32,
    }
    assert parts["runtime:tensorrt_rtx@1.7.1"]["version"] == "1.7.1"
    assert parts["file:components/decoder/model.onnx"]["group"] == "components/decoder"
    tools = {tool["name"]: tool for tool in made["metadata"]["tools"]["components"]}
    assert tools["torch"]["purl"] == "pkg:pypi/torch@2.13.0%2Bcpu"
    assert "purl" not in tools["python"]


def test_the_same_bundle_has_the_same_bytes_and_another_has_another_number(manifest: Manifest) -> None:
    first, again = sbom(manifest, {"model.onnx": b"a"}), sbom(manifest, {"model.onnx": b"a"})
    other = sbom(manifest, {"model.onnx": b"b"})
    assert first == again
    assert json.loads(first)["serialNumber"] != json.loads(other)["serialNumber"]
