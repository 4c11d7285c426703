"""How pictures lie: what EXIF orientations, 1 to 8, do to arrays, and how a mask comes to lie over its picture.

Knows: arrays and sizes. Does not know: files, damage, what a picture shows.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

DrawnOn = Literal["auto", "displayed", "stored"]
"""What the author of a mask saw; `auto`: whichever agrees in size, and "displayed" where both do."""

EITHER = "lies on the picture as that is displayed, turned by EXIF; if it was drawn as stored, --mask-on stored"
"""What to say of a mask whose size leaves open what its author saw."""


def displayed(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn what lies as stored, `(h, w, ...)`, to how an orientation displays it; a view."""
    swapped = array.swapaxes(0, 1) if orientation >= 5 else array
    down = -1 if orientation in (3, 4, 7, 8) else 1
    across = -1 if orientation in (2, 3, 6, 7) else 1
    return swapped[::down, ::across]


def as_stored(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Undo `displayed`: quarter turns to one side and the other undo each other, the rest undo themselves."""
    return displayed(array, {6: 8, 8: 6}.get(orientation, orientation))


def displayed_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Height and width of what an orientation displays of something of a height and width."""
    return (size[1], size[0]) if orientation >= 5 else size


def over(
    mask: tuple[int, int], own: int, picture: tuple[int, int], orientation: int, drawn_on: DrawnOn = "auto"
) -> int:
    """Tell how a mask is to be turned to lie over the pixels of its picture, both as they are stored.

    Args:
        mask: Height and width of the mask.
        own: The mask file's own orientation.
        picture: Height and width of the picture.
        orientation: The picture's.
        drawn_on: What the mask's author saw.

    Returns:
        An orientation, for `displayed`.

    Raises:
        ValueError: The sizes do not agree. Masks are never stretched.
    """
    upright, shown = displayed_size(mask, own), displayed_size(picture, orientation)
    if drawn_on != "stored" and upright == shown:
        probe = np.arange(6).reshape(2, 3)  # told apart however it is turned
        wanted = as_stored(displayed(probe, own), orientation)
        return next(turn for turn in range(1, 9) if np.array_equal(displayed(probe, turn), wanted))
    if drawn_on != "displayed" and mask == picture:
        return 1
    height, width = mask if drawn_on == "stored" else upright
    sizes = [f"{picture[1]} x {picture[0]}"] if drawn_on != "displayed" else []
    sizes += [f"{shown[1]} x {shown[0]} as displayed"] if shown != picture and drawn_on != "stored" else []
    sizes = sizes or [f"{shown[1]} x {shown[0]}"]
    reason = f"mask is {width} x {height}, the picture {' or '.join(sizes)}: they must agree"
    raise ValueError(f"{reason}; masks are never stretched")


def could_be_either(mask: tuple[int, int], own: int, picture: tuple[int, int], orientation: int) -> bool:
    """Whether the size of a mask that lies over its picture leaves open what its author saw, and it matters.

    The arguments are those of `over`.
    """
    return mask == picture and over(mask, own, picture, orientation) != 1
