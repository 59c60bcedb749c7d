"""Which role each token of a stream has by its place: sinks gather on padding, on corners, in a film's first frame.

Shapes: B images, n tokens of a stream. Roles are told apart by place alone, whatever a token's magnitude.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
PLACES = ("padding", "corner", "first frame", "other")
"""A corner of the first frame is a corner."""
PADDING, CORNER, FIRST_FRAME, OTHER = range(len(PLACES))


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


@dataclass(frozen=True, kw_only=True)
class TokenPlaces:
    """`grid` are the frames, rows and columns of the image's tokens; `mask` the input that hides a prompt's padding.

    `text` are the first row and the number of the prompt's tokens in a sequence of both streams, registers left out.
    """

    grid: tuple[int, int, int] | None = None
    mask: str | None = None
    text: tuple[int, int] | None = None

    def of_image(self, tokens: int, registers: Array) -> Array:
        """The role of each of `tokens` rows, [n] int, of which `registers` [n] are none of the image's.

        All are `other` in a sequence without the image's: by its length, it is another stream's.
        """
        roles, rows = np.full(tokens, OTHER), np.flatnonzero(~registers)
        image = np.setdiff1d(rows, self._joined(registers))
        if self.grid is not None and len(image) == math.prod(self.grid):
            roles[image] = image_roles(self.grid, len(image))
        return roles

    def of_prompt(self, roles: Array, registers: Array, mask: Array) -> Array:
        """`roles` [n] with those of the prompt's tokens, [B, n], where the sequence is the prompt's or holds it.

        `mask` [B, T] is 0 for padding; of another length, it is not about these tokens.
        """
        count, rows = len(mask), self._joined(registers)
        if not len(rows) and len(roles) == mask.shape[1] and (roles == OTHER).all():
            rows = np.arange(len(roles))
        if not len(rows) or len(rows) != mask.shape[1]:
            return roles
        found = np.tile(roles, (count, 1))
        found[:, rows] = text_roles(mask, mask.shape)
        return found

    def _joined(self, registers: Array) -> Array:
        """The prompt's rows in a sequence of both streams; none in any other."""
        rows = np.flatnonzero(~registers)
        if self.grid is None or self.text is None or len(rows) != math.prod(self.grid) + self.text[1]:
            return rows[:0]
        first, count = self.text
        return rows[first : first + count]

    def hidden(self, inputs: Mapping[str, Array]) -> Array | None:
        """The prompt's mask [B, T] in a call's inputs, where the model is given one."""
        return inputs.get(self.mask) if self.mask is not None else None
