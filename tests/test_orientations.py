"""How pictures lie: what orientations do to arrays, and how a mask comes to lie over its picture."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps

from pconv_cli.orientations import as_stored, could_be_either, displayed, displayed_size, over

ALL = range(1, 9)


@pytest.mark.parametrize("orientation", ALL)
def test_an_orientation_does_what_others_take_it_for_and_is_undone(orientation: int) -> None:
    stored = np.arange(35, dtype=np.uint8).reshape(5, 7)
    picture = Image.fromarray(stored)
    picture.getexif()[274] = orientation
    shown = displayed(stored, orientation)
    np.testing.assert_array_equal(shown, np.asarray(ImageOps.exif_transpose(picture)))
    np.testing.assert_array_equal(as_stored(shown, orientation), stored)
    assert displayed_size((5, 7), orientation) == shown.shape


@pytest.mark.parametrize("orientation", ALL)
@pytest.mark.parametrize("own", ALL)
def test_a_mask_that_is_displayed_as_its_picture_lies_where_that_lies(own: int, orientation: int) -> None:
    truth = np.arange(35).reshape(5, 7)  # over the pixels of the picture, as stored
    mask = as_stored(displayed(truth, orientation), own)
    turn = over(mask.shape, own, (5, 7), orientation)
    np.testing.assert_array_equal(displayed(mask, turn), truth)
    assert over(mask.shape, own, (5, 7), orientation, "displayed") == turn
    assert own != orientation or turn == 1


@pytest.mark.parametrize("orientation", ALL)
@pytest.mark.parametrize("own", ALL)
@pytest.mark.parametrize("size", [(5, 7), (6, 6)])
def test_a_size_leaves_open_what_was_drawn_on_where_both_fit_and_lie_otherwise(
    size: tuple[int, int], own: int, orientation: int
) -> None:
    masks = {drawn_on: over(size, own, size, orientation, drawn_on) for drawn_on in ("displayed", "stored")
             if drawn_on == "stored" or displayed_size(size, own) == displayed_size(size, orientation)}  # fmt: skip
    assert could_be_either(size, own, size, orientation) == (len(set(masks.values())) == 2)
    assert not could_be_either((7, 5), 1, (5, 7), 6)
