"""Why an archive is not taken: two reasons that its reader tells apart."""

from __future__ import annotations


class MalformedError(ValueError):
    """It is not what `torch.export.save` writes."""


class DangerousError(ValueError):
    """It could make torch do something that no model needs."""
