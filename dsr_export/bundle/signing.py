"""Signs bundles, and checks who signed them: Ed25519, by the package `cryptography` (extra `sign`)."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsr_export.bundle.paths import MANIFEST, SIGNATURE
from dsr_export.bundle.reader import Bundle
from dsr_export.bundle.signature_file import PublicKey, Signature
from dsr_export.errors import ExportError
from dsr_export.storage.canonical import read_bounded
from dsr_export.storage.disk import write_durably
from dsr_export.storage.leftovers import undone

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PASSWORD = "DSR_EXPORT_KEY_PASSWORD"
LARGEST_KEY = 64 << 10  # bytes
_MAKE = "make one: openssl genpkey -algorithm ed25519 -out key.pem"
_PUBLIC = "openssl pkey -in key.pem -pubout -out key.pub.pem"


def sign_bundle(folder: Path, key: Path) -> Bundle:
    """Puts a signature into the bundle, in place of any that is there, once every file of it is verified.

    Raises:
        ExportError: `key` is no private Ed25519 key; the bundle was altered, or failed its checks when it was built.
    """
    private = private_key(key)
    bundle = Bundle.open(folder)
    if not bundle.passed_when_built():
        raise ExportError(f"{folder} failed its checks when it was built", hint="sign bundles that passed")
    data = bundle.manifest.to_bytes()
    if data != read_bounded(folder / MANIFEST):
        raise ExportError(f"{folder} changes while it is signed", hint="sign it when nothing else writes there")
    signature = Signature(PublicKey(private.public_key().public_bytes_raw()), private.sign(data))
    _write(folder, signature.to_bytes())
    return Bundle.open(folder, trust=[signature.key])


def readable_by_others(key: Path) -> bool:
    """Whether the permissions of a key file let other users of the machine read it."""
    return os.name == "posix" and key.is_file() and bool(stat.S_IMODE(key.stat().st_mode) & 0o077)


def private_key(path: Path) -> Ed25519PrivateKey:
    """From PEM (PKCS8) or OpenSSH's format; encrypted ones take the password in `DSR_EXPORT_KEY_PASSWORD`."""
    _require()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key

    data = read_bounded(path, max_bytes=LARGEST_KEY)
    load = load_ssh_private_key if b"BEGIN OPENSSH PRIVATE KEY" in data else load_pem_private_key
    password = os.environ.get(PASSWORD)
    encrypted = b"ENCRYPTED" in data or load is load_ssh_private_key
    key = _loaded(path, partial(load, data, password.encode() if password and encrypted else None), "private", _MAKE)
    if not isinstance(key, Ed25519PrivateKey):
        raise ExportError(f"{path} holds a key of another kind, expected Ed25519", hint=_MAKE)
    return key


def public_key(path: Path) -> PublicKey:
    """From PEM (SubjectPublicKeyInfo) or a line `ssh-ed25519 ...`. ExportError where it is no public Ed25519 key."""
    _require()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key, load_ssh_public_key

    data = read_bounded(path, max_bytes=LARGEST_KEY)
    if b"PRIVATE KEY" in data:
        raise ExportError(f"{path} is a private key, expected the public one", hint=_PUBLIC)
    load: Callable[[bytes], Any] = load_ssh_public_key if data.startswith(b"ssh-") else load_pem_public_key
    key = _loaded(path, partial(load, data), "public", _PUBLIC)
    if not isinstance(key, Ed25519PublicKey):
        raise ExportError(f"{path} holds a key of another kind, expected Ed25519", hint=_MAKE)
    return PublicKey(key.public_bytes_raw())


def is_valid(signature: Signature, data: bytes) -> bool:
    """Whether the key in `signature` signed `data`; whose key it is says nobody here."""
    _require()
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(signature.key.raw).verify(signature.value, data)
    except (InvalidSignature, ValueError):  # ValueError: no point of the curve
        return False
    return True


def require_signed(folder: Path, data: bytes, signature: Signature | None, trust: Sequence[PublicKey]) -> None:
    """Raises ExportError where `data`, the manifest's bytes, is not signed by one of the keys `trust`."""
    if signature is None:
        raise ExportError(f"{folder} is not signed: it has no {SIGNATURE}", hint="sign it: dsr-export sign --help")
    if signature.key not in trust:
        trusted = " or ".join(key.fingerprint for key in trust)
        raise ExportError(
            f"{folder} is signed by {signature.key.fingerprint}, and {trusted} is trusted",
            hint="give the public key of whoever signed it, if you trust them",
        )
    if not is_valid(signature, data):
        raise ExportError(
            f"{folder / MANIFEST} is not what was signed: it or its signature was changed",
            hint="do not use this bundle; copy it again from where it was signed",
        )


def _require() -> None:
    try:
        import cryptography  # noqa: F401 (only whether it is there)
    except ImportError:
        raise ExportError(
            "the package 'cryptography' is not installed, and signatures need it",
            hint="pip install 'dsr-export[sign]'",
        ) from None


def _loaded(path: Path, load: Callable[[], Any], kind: str, hint: str) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        return load()
    except TypeError:  # a password is missing
        raise ExportError(f"the key {path} is encrypted", hint=f"put its password into {PASSWORD}") from None
    except (ValueError, UnsupportedAlgorithm) as error:
        reason = "; or the password is wrong" if PASSWORD in os.environ else ""
        raise ExportError(f"{path} is no {kind} key in PEM or OpenSSH's format{reason}", hint=hint) from error


def _write(folder: Path, data: bytes) -> None:
    """Whole or not at all; assembled beside the bundle, since a killed process must leave nothing unlisted in it."""
    place = folder.resolve()
    temporary = place.with_name(f".{place.name}.{os.getpid()}.sig.tmp")
    try:
        with undone(partial(temporary.unlink, missing_ok=True)):
            write_durably(data, temporary)
            temporary.replace(place / SIGNATURE)
    except OSError as error:
        raise ExportError(
            f"can't write {place / SIGNATURE}: {error.strerror or error}", hint="check the folder and its space"
        ) from error
