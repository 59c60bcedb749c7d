"""Roles of tokens by their place."""

from __future__ import annotations

import numpy as np
import pytest

from calibration.places import CORNER, FIRST_FRAME, OTHER, PADDING, TokenPlaces, image_roles, text_roles
from dsr_export.diagnosis.streams.norms import RoleNorms


def test_a_picture_has_four_corners_and_no_first_frame() -> None:
    found = image_roles((1, 3, 4), 12).reshape(3, 4)
    assert (found == CORNER).sum() == 4
    assert found[0, 0] == found[0, 3] == found[2, 0] == found[2, 3] == CORNER
    assert (found == OTHER).sum() == 8


def test_a_film_has_corners_in_each_frame_and_a_first_frame() -> None:
    found = image_roles((2, 3, 3), 18).reshape(2, 3, 3)
    assert (found == CORNER).sum(axis=(1, 2)).tolist() == [4, 4]
    assert (found[0] == FIRST_FRAME).sum() == 5 and not (found[1] == FIRST_FRAME).any()


def test_rows_behind_the_grid_are_padding() -> None:
    assert image_roles((1, 2, 2), 6).tolist() == [CORNER] * 4 + [PADDING] * 2


def test_text_is_told_by_its_mask_where_that_is_of_the_same_tokens() -> None:
    mask = np.array([[1, 1, 0], [1, 0, 0]])
    assert text_roles(mask, (2, 3)).tolist() == [[OTHER, OTHER, PADDING], [OTHER, PADDING, PADDING]]
    assert (text_roles(mask, (2, 5)) == OTHER).all()
    assert (text_roles(None, (2, 3)) == OTHER).all()


def test_outliers_are_counted_by_role() -> None:
    norms = RoleNorms()
    tokens = np.array([[1.0, 1.0, 1.0, 9.0, 8.0]])
    roles = np.array([[OTHER, OTHER, PADDING, PADDING, OTHER]])
    for step in (1, 0):
        norms.add(step, tokens, roles)
    edge = norms.bins.edge_at(4.0)
    assert norms.above(edge).tolist() == [2, 0, 0, 2]
    assert norms.tokens().tolist() == [4, 0, 0, 6]
    assert norms.ratios(edge).tolist() == [0.4, 0.4] and norms.largest == 9.0


def test_the_image_is_known_by_its_length_with_registers_or_without() -> None:
    places = TokenPlaces(grid=(1, 2, 3), mask="mask")
    picture = [CORNER, OTHER, CORNER] * 2
    assert places.of_image(6, np.zeros(6, bool)).tolist() == picture
    registers = np.array([False] * 1 + [True] * 2 + [False] * 5)
    found = places.of_image(8, registers).tolist()
    assert [found[0], *found[3:]] == picture and found[1:3] == [OTHER, OTHER]
    assert (places.of_image(7, np.zeros(7, bool)) == OTHER).all()  # the prompt's
    mask = np.ones((2, 4))
    assert places.hidden({"mask": mask}) is mask and TokenPlaces().hidden({"mask": mask}) is None


PICTURE = [CORNER, OTHER, CORNER] * 2
PADDED = np.array([[1, 1, 0], [1, 0, 0]])
ENDS = [[OTHER, OTHER, PADDING], [OTHER, PADDING, PADDING]]


@pytest.mark.parametrize("first", [0, 6], ids=["text first", "image first"])
def test_both_streams_are_told_apart_in_one_sequence(first: int) -> None:
    places, none = TokenPlaces(grid=(1, 2, 3), text=(first, 3)), np.zeros(9, bool)
    roles = places.of_image(9, none)
    text = [OTHER] * 3
    assert roles.tolist() == ([*text, *PICTURE] if first == 0 else [*PICTURE, *text])
    found = places.of_prompt(roles, none, PADDED)
    for row, end in zip(found.tolist(), ENDS, strict=True):
        assert row == ([*end, *PICTURE] if first == 0 else [*PICTURE, *end])
    assert roles.tolist().count(PADDING) == 0  # as it was
    assert places.of_image(6, np.zeros(6, bool)).tolist() == PICTURE  # where the image is alone
    other = places.of_prompt(roles, none, np.ones((2, 5)))
    assert other.tolist() == roles.tolist()  # the mask of other tokens


def test_registers_between_both_are_neither() -> None:
    """As FLUX.1 has them: the prompt, registers, the picture."""
    places, registers = TokenPlaces(grid=(1, 2, 3), text=(0, 3)), np.isin(np.arange(11), (3, 4))
    roles = places.of_image(11, registers)
    assert roles.tolist() == [*[OTHER] * 5, *PICTURE]
    assert places.of_prompt(roles, registers, PADDED)[1].tolist() == [*ENDS[1], OTHER, OTHER, *PICTURE]


def test_a_prompt_alone_is_told_by_its_mask_and_the_picture_is_not() -> None:
    places = TokenPlaces(grid=(1, 2, 3), text=(0, 3))
    alone = places.of_image(3, np.zeros(3, bool))
    assert places.of_prompt(alone, np.zeros(3, bool), PADDED).tolist() == ENDS
    picture = places.of_image(6, np.zeros(6, bool))
    assert places.of_prompt(picture, np.zeros(6, bool), np.zeros((2, 6))).tolist() == PICTURE
