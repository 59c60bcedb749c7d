"""`dsr-export sign`."""

from __future__ import annotations

from pathlib import Path

import click

from dsr_export.cli.process.streams import Command, answer, answer_json


@click.command("sign", cls=Command)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--key", type=click.Path(path_type=Path), required=True, help="Private Ed25519 key, PEM or OpenSSH's format."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, and nothing else.")
def command(bundle: Path, key: Path, as_json: bool) -> None:
    """Sign BUNDLE: manifest.json.sig, over the manifest and by it over every file, in place of any that is there.

    An encrypted key takes its password from DSR_EXPORT_KEY_PASSWORD. Others check with `verify --trust PUBKEY`.
    """
    from dsr_export.bundle.signing import readable_by_others, sign_bundle
    from dsr_export.progress import reporter

    if readable_by_others(key):
        reporter().note(f"other users of this machine can read {key}: chmod 600 {key}")
    signed = sign_bundle(bundle, key)
    by = signed.signature.key.fingerprint if signed.signature else None
    if as_json:
        answer_json({"bundle": str(bundle), "manifest_digest": signed.manifest.digest, "signed_by": by})
    else:
        answer(f"{bundle}: manifest {signed.manifest.digest}, signed by {by}")
