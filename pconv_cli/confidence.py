"""How far restored pixels are from what is known, in steps of a 3 x 3 partial convolution.

Knows: planes of True and False, and blocks of a plane too large to be held. Does not know: files, networks, colours,
or which pixels were restored.

With each step a 3 x 3 partial convolution makes known whatever pixel has a known one in its window. So the number of
steps is the Chebyshev distance to the nearest known pixel: the larger of the distances across and down.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pconv_cli.regions import Window

FARTHEST = 255
"""Steps beyond this are not told apart."""

_NEAR = 32  # pixels round a block that are looked at first: few holes are deeper


def steps_to_known(known: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Count, for each pixel, the steps of a 3 x 3 partial convolution until it is known.

    Args:
        known: `(h, w)`, True where the picture is known at the beginning.

    Returns:
        `(h, w)`: 0 where known at the beginning, 1 beside it, corners included, and so on; 255 for 255 and more, and
        where nothing is known at all.
    """
    steps = np.empty(known.shape, np.uint8)
    nothing = np.full(known.shape[1], FARTHEST, np.uint8)
    line = nothing
    for row, here in zip(steps, known, strict=True):  # what is known in the row itself, or above it
        line = np.minimum(_along(here), _one_on(line), out=row)
    line = nothing
    for row in steps[::-1]:  # or below
        line = np.minimum(row, _one_on(line), out=row)
    return steps


def steps_in_block(
    block: Window, size: tuple[int, int], known: Callable[[Window], NDArray[np.bool_]]
) -> NDArray[np.uint8]:
    """Count the same for one block of a picture, as `steps_to_known` would for the whole of it.

    Args:
        block: A rectangle inside the picture.
        size: Height and width of the picture.
        known: Gives what is known in a rectangle of it, `(h, w)`.

    Returns:
        `(h, w)` of the block.
    """
    for reach in (_NEAR, FARTHEST):
        around = _around(block, reach, size)
        top, left = block.y - around.y, block.x - around.x
        steps = steps_to_known(known(around))[top : top + block.height, left : left + block.width]
        if int(steps.max()) <= reach:  # whatever lies beyond is farther away
            break
    return steps


def _around(block: Window, reach: int, size: tuple[int, int]) -> Window:
    left, top = max(block.x - reach, 0), max(block.y - reach, 0)
    right, bottom = min(block.right + reach, size[1]), min(block.bottom + reach, size[0])
    return Window(left, top, right - left, bottom - top)


def _along(known: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Steps to the nearest known pixel of one row, `(w,)`."""
    places = np.arange(len(known), dtype=np.int32)
    left = np.maximum.accumulate(np.where(known, places, np.int32(-FARTHEST)))
    right = np.minimum.accumulate(np.where(known, places, np.int32(len(known) + FARTHEST))[::-1])[::-1]
    return np.minimum(np.minimum(places - left, right - places), FARTHEST).astype(np.uint8)


def _one_on(line: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Steps, `(w,)`, in the next row by way of this one: whatever is known there is nearer by one from a neighbour."""
    near = line.copy()
    np.minimum(near[1:], line[:-1], out=near[1:])
    np.minimum(near[:-1], line[1:], out=near[:-1])
    np.minimum(near, np.uint8(FARTHEST - 1), out=near)
    return np.asarray(near + np.uint8(1))
