"""Values as strict JSON has them: a figure that is not finite is null, as a figure that was not measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def plain(value: Any) -> Any:
    """`value` with NaN and infinities as None, and numpy's numbers as Python's."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if getattr(value, "ndim", None) == 0:  # numpy's, which is not imported for this
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
