"""`--trust`, the same for every command that opens a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from dsr_export.bundle.signature_file import PublicKey


def trusted(paths: tuple[Path, ...]) -> tuple[PublicKey, ...]:
    """The keys that were given. Not read by the option itself: options of a command can be looked at without files."""
    from dsr_export.bundle.signing import public_key

    return tuple(public_key(path) for path in paths)


trust_option = click.option(
    "--trust",
    type=click.Path(path_type=Path),
    metavar="PUBKEY",
    multiple=True,
    help="Refuse what this key (PEM or OpenSSH, Ed25519) did not sign, before it is read; any one of several.",
)
