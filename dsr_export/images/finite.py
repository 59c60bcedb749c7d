"""Numbers that are none: no picture is made of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dsr_export.errors import RunnerError

Array = npt.NDArray[Any]


def finite(values: Array, what: str, role: str) -> Array:
    """`values` themselves. RunnerError where they hold NaN or infinities: no picture is made of these."""
    if np.isfinite(values).all():
        return values
    raise RunnerError(
        f"the {role} makes NaN or infinities in {what}",
        hint=f"build it in more precision: --precision fp32, or --component-precision {role}=fp32",
    )
