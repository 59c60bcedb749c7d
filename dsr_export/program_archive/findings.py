"""Why an archive is not taken: two reasons that its reader tells apart."""

from __future__ import annotations

from dsr_export.storage.zip_members import MalformedError as MalformedError


class DangerousError(ValueError):
    """It could make torch do something that no model needs."""
