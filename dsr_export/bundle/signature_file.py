"""`manifest.json.sig`: an Ed25519 signature over the manifest, which holds the checksum of every other file.

Read here without any package; `dsr_export.bundle.signing` makes and checks signatures.
"""

from __future__ import annotations

import base64
import os
import re
from dataclasses import dataclass
from pathlib import Path

from dsr_export.bundle.paths import SIGNATURE
from dsr_export.errors import ExportError
from dsr_export.storage.canonical import read_bounded
from graphs.digests import bytes_digest

LARGEST = 512  # bytes; one is shorter
_FORM = re.compile(
    rb"dsr-export signature 1\nkey (?P<key>[A-Za-z0-9+/]{43}=)\nsignature (?P<signature>[A-Za-z0-9+/]{86}==)\n"
)
_DER_HEAD = bytes.fromhex("302a300506032b6570032100")  # SubjectPublicKeyInfo of an Ed25519 key, RFC 8410


@dataclass(frozen=True)
class PublicKey:
    """An Ed25519 key: its 32 bytes."""

    raw: bytes

    @property
    def fingerprint(self) -> str:
        """`sha256:` and the digest of the key in DER: what `openssl pkey -pubin -outform DER | sha256sum` gives."""
        return f"sha256:{bytes_digest(_DER_HEAD + self.raw)}"


@dataclass(frozen=True)
class Signature:
    """64 bytes, and the key that they are said to be made with: a claim, until it is checked."""

    key: PublicKey
    value: bytes

    def to_bytes(self) -> bytes:
        key, value = (base64.b64encode(part).decode() for part in (self.key.raw, self.value))
        return f"dsr-export signature 1\nkey {key}\nsignature {value}\n".encode()


def read_signature(folder: Path) -> Signature | None:
    """The signature in a bundle's folder, None where there is none. ExportError where the file is no signature."""
    path = folder / SIGNATURE
    if not os.path.lexists(path):
        return None
    if path.is_symlink() or not path.is_file():
        raise ExportError(f"{path} is no regular file", hint="copy the bundle again, or sign it again")
    match = _FORM.fullmatch(read_bounded(path, max_bytes=LARGEST))
    if match is None:
        raise ExportError(f"{path} is no signature of dsr-export", hint="sign the bundle again, or remove the file")
    return Signature(PublicKey(base64.b64decode(match["key"])), base64.b64decode(match["signature"]))
