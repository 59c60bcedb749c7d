"""Which role each token of a stream has: sinks gather on the prompt's padding, on corners, in a film's first frame.

Shapes: B images, n tokens of a stream. Roles are told apart by place alone, whatever a token's norm.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
ROLES = ("padding", "corner", "first frame", "other")
"""A corner of the first frame is a corner."""
PADDING, CORNER, FIRST_FRAME, OTHER = range(len(ROLES))


def image_roles(grid: tuple[int, int, int], tokens: int) -> Array:
    """The role of each of `tokens` rows, [n] int; rows behind those of the `grid` of frames, rows, columns pad it.

    A picture of one frame has no first frame: it is nothing but that.
    """
    frames, rows, columns = grid
    roles = np.full(grid, OTHER)
    if frames > 1:
        roles[0] = FIRST_FRAME
    roles[np.ix_(range(frames), (0, rows - 1), (0, columns - 1))] = CORNER
    found = np.full(max(tokens, roles.size), PADDING)
    found[: roles.size] = roles.ravel()
    return found[:tokens]


def text_roles(mask: Array | None, shape: tuple[int, int]) -> Array:
    """The role of each token [B, n] of a prompt, from its mask [B, T]; of tokens without one, all are `other`."""
    if mask is None or mask.shape != shape:
        return np.full(shape, OTHER)
    return np.where(mask != 0, OTHER, PADDING)
