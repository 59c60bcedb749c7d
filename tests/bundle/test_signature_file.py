"""Who signed a bundle: with keys to trust, nothing else is so much as parsed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dsr_export.bundle.manifest import Manifest
from dsr_export.bundle.paths import MANIFEST, SIGNATURE, check_path_set
from dsr_export.bundle.reader import Bundle
from dsr_export.bundle.signing import PASSWORD, private_key, public_key, sign_bundle
from dsr_export.errors import ExportError
from tests.bundle.mutations import seal
from tests.conftest import Cli

pytest.importorskip("cryptography", reason="needs the sign extra")

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PEM = serialization.Encoding.PEM
PKCS8, OPENSSH = serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.OpenSSH
OPEN = serialization.NoEncryption()

Keys = tuple[Path, Path]


def _spki(public: object) -> bytes:
    return public.public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]


def _pair(folder: Path, name: str) -> Keys:
    key = Ed25519PrivateKey.generate()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    private.write_bytes(key.private_bytes(PEM, PKCS8, OPEN))
    private.chmod(0o600)
    public.write_bytes(_spki(key.public_key()))
    return private, public


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return _pair(tmp_path, "ours")


def test_what_was_signed_is_trusted_by_its_key_alone(bundle: Path, keys: Keys, tmp_path: Path) -> None:
    files = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    signed = sign_bundle(bundle, keys[0])
    ours, theirs = public_key(keys[1]), public_key(_pair(tmp_path, "theirs")[1])
    assert signed.signature is not None and signed.signature.key == ours
    assert {path for path in bundle.rglob("*") if path.is_file()} == {*files, bundle / SIGNATURE}
    assert all(path.read_bytes() == data for path, data in files.items())
    assert Bundle.open(bundle, trust=[theirs, ours]).manifest == Bundle.open(bundle).manifest
    with pytest.raises(ExportError, match=f"signed by {ours.fingerprint}, and {theirs.fingerprint} is trusted"):
        Bundle.open(bundle, trust=[theirs])


def test_signing_again_replaces_the_signature(bundle: Path, keys: Keys, tmp_path: Path) -> None:
    sign_bundle(bundle, keys[0])
    other = _pair(tmp_path, "other")
    sign_bundle(bundle, other[0])
    assert Bundle.open(bundle, trust=[public_key(other[1])]).signature is not None
    with pytest.raises(ExportError, match="is trusted"):
        Bundle.open(bundle, trust=[public_key(keys[1])])


def _sealed_again(bundle: Path) -> None:
    (bundle / "report.json").write_bytes(b'{"passed": true, "forged": 1}')
    seal(bundle)


@pytest.mark.parametrize(
    "damage",
    [
        lambda bundle: (bundle / MANIFEST).write_bytes(b"[" * 50),
        lambda bundle: (bundle / MANIFEST).write_bytes((bundle / MANIFEST).read_bytes() + b"\n"),
        _sealed_again,
        lambda bundle: (bundle / SIGNATURE).unlink(),
        lambda bundle: (bundle / SIGNATURE).write_bytes(b"dsr-export signature 1\n"),
    ],
    ids=["no-json", "appended", "sealed-again", "unsigned", "no-signature"],
)
def test_nothing_is_parsed_of_what_is_not_trusted(
    damage: Callable[[Path], object], bundle: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_bundle(bundle, keys[0])
    damage(bundle)

    def parsed(*_: object, **__: object) -> Manifest:
        raise AssertionError("the manifest was parsed")

    monkeypatch.setattr(Manifest, "from_bytes", parsed)
    with pytest.raises(ExportError, match=r"not what was signed|is not signed|is no signature"):
        Bundle.open(bundle, trust=[public_key(keys[1])])


def test_a_flipped_byte_anywhere_in_a_signed_bundle_is_refused(bundle: Path, keys: Keys) -> None:
    sign_bundle(bundle, keys[0])
    trust = [public_key(keys[1])]
    for path in sorted(path for path in bundle.rglob("*") if path.is_file()):
        data = path.read_bytes()
        for at in {0, len(data) // 2, len(data) - 2}:
            path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            with pytest.raises(ExportError):
                Bundle.open(bundle, trust=trust)
        path.write_bytes(data)
    Bundle.open(bundle, trust=trust)


@pytest.mark.parametrize("kind", ["text", "zeros", "link", "fifo", "folder"])
def test_a_signature_file_that_is_none_is_refused_without_keys_as_well(kind: str, bundle: Path, tmp_path: Path) -> None:
    path = bundle / SIGNATURE
    if kind == "text":
        path.write_text("trust me\n")
    elif kind == "zeros":
        path.write_bytes(bytes(1 << 20))
    elif kind == "link":
        (tmp_path / "elsewhere").write_text("x")
        path.symlink_to(tmp_path / "elsewhere")
    else:
        (os.mkfifo if kind == "fifo" else os.mkdir)(path)
    with pytest.raises(ExportError, match=r"manifest\.json\.sig") as caught:
        Bundle.open(bundle)
    assert caught.value.hint


def test_no_manifest_lists_its_own_signature() -> None:
    with pytest.raises(ExportError, match="cannot hold its own checksum"):
        check_path_set(["model.onnx", SIGNATURE.upper()], where="m")


def test_a_bundle_that_failed_is_not_signed(bundle: Path, keys: Keys) -> None:
    (bundle / "report.json").write_text(json.dumps({"passed": False}))
    seal(bundle)
    with pytest.raises(ExportError, match="failed its checks when it was built"):
        sign_bundle(bundle, keys[0])
    assert not (bundle / SIGNATURE).exists()


def test_nothing_is_left_where_the_signature_cannot_be_written(
    bundle: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(bundle.parent.rglob("*"))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(ExportError, match="can't write .*: No space left"):
        sign_bundle(bundle, keys[0])
    assert sorted(bundle.parent.rglob("*")) == before


def test_openssh_keys_are_read_as_well(bundle: Path, tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    (tmp_path / "id").write_bytes(key.private_bytes(PEM, OPENSSH, OPEN))
    line = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    (tmp_path / "id.pub").write_bytes(line + b" me@example\n")
    sign_bundle(bundle, tmp_path / "id")
    Bundle.open(bundle, trust=[public_key(tmp_path / "id.pub")])


def test_an_encrypted_key_takes_its_password_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "key.pem"
    closed = serialization.BestAvailableEncryption(b"secret")
    path.write_bytes(Ed25519PrivateKey.generate().private_bytes(PEM, PKCS8, closed))
    monkeypatch.delenv(PASSWORD, raising=False)
    with pytest.raises(ExportError, match="is encrypted") as caught:
        private_key(path)
    assert PASSWORD in str(caught.value.hint)
    monkeypatch.setenv(PASSWORD, "wrong")
    with pytest.raises(ExportError, match="or the password is wrong"):
        private_key(path)
    monkeypatch.setenv(PASSWORD, "secret")
    assert len(private_key(path).public_key().public_bytes_raw()) == 32


def test_other_keys_and_other_files_are_refused_by_name(keys: Keys, tmp_path: Path) -> None:
    curve = ec.generate_private_key(ec.SECP256R1())
    exchange = x25519.X25519PrivateKey.generate()
    path = tmp_path / "other.pem"
    for other in (curve, exchange):
        path.write_bytes(other.private_bytes(PEM, PKCS8, OPEN))
        with pytest.raises(ExportError, match="another kind, expected Ed25519"):
            private_key(path)
        path.write_bytes(_spki(other.public_key()))
        with pytest.raises(ExportError, match="another kind, expected Ed25519"):
            public_key(path)
    for data in (b"", b"no key", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", bytes(1 << 17)):
        path.write_bytes(data)
        for load in (private_key, public_key):
            with pytest.raises(ExportError, match=r"other\.pem") as caught:
                load(path)
            assert caught.value.hint
    with pytest.raises(ExportError, match="is a private key, expected the public one"):
        public_key(keys[0])
    with pytest.raises(ExportError, match="cannot read"):
        public_key(tmp_path / "absent.pem")


def test_without_the_package_the_extra_is_named(bundle: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    for call in (lambda: sign_bundle(bundle, keys[0]), lambda: public_key(keys[1])):
        with pytest.raises(ExportError, match="'cryptography' is not installed") as caught:
            call()
        assert caught.value.hint == "pip install 'dsr-export[sign]'"
    Bundle.open(bundle)


def test_the_command_line_signs_and_asks_for_signatures(bundle: Path, keys: Keys, cli: Cli) -> None:
    private, public = keys
    for command in (("verify",), ("inspect",), ("sample",), ("compile", "--target", "rtx"), ("diff", bundle)):
        done = cli(*command, bundle, "--trust", public)
        assert (done.code, "is not signed" in done.err) == (1, True), (command, done.err)
    private.chmod(0o644)
    done = cli("sign", bundle, "--key", private)
    assert done.code == 0 and f"chmod 600 {private}" in done.err
    name = public_key(public).fingerprint
    assert name in done.out and Bundle.open(bundle).manifest.digest in done.out
    for options, checked in (((), False), (("--trust", public), True)):
        facts = json.loads(cli("inspect", bundle, "--json", *options).out)
        assert facts["signature"] == {"key": name, "checked": checked}
        assert facts["manifest_digest"] == Bundle.open(bundle).manifest.digest
