"""Operations on masks of damage.

Knows: planes of True (damaged) and False. Does not know: files, polarity in files, pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray


def dilate(hole: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """Grow damage by a number of pixels in every direction, diagonals included (a square of side `2 radius + 1`).

    Args:
        hole: `(h, w)`, True = damaged.
        radius: Pixels, 0 or more.

    Returns:
        `(h, w)`; the picture's border does not grow inwards.
    """
    if radius <= 0 or not hole.any():
        return hole
    return _grown(_grown(hole.T, radius).T, radius)  # a square is a row of columns


def _grown(plane: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """Grow up and down, in leaps that double."""
    reach = 0
    while reach < radius:
        leap = min(reach + 1, radius - reach)  # a longer one would leave gaps beside the border
        before, plane = plane, plane.copy()
        plane[leap:] |= before[:-leap]
        plane[:-leap] |= before[leap:]
        reach += leap
    return plane


def dilated_strips(strips: Iterable[NDArray[np.bool_]], radius: int) -> Iterator[NDArray[np.bool_]]:
    """Grow damage that comes in strips, as `dilate` would grow the whole.

    Args:
        strips: `(rows, w)`, top to bottom, True = damaged; any number of rows each.
        radius: Pixels, 0 or more.

    Yields:
        `(rows, w)`, top to bottom, as many rows in all as came in, up to `radius` of them later.
    """
    if radius <= 0:
        yield from strips
        return
    held: NDArray[np.bool_] | None = None  # rows that wait for what lies below, and above them what they still need
    above = 0
    for strip in strips:
        held = strip if held is None else np.concatenate([held, strip])
        ready = len(held) - radius
        if ready > above:
            yield dilate(held, radius)[above:ready]
            drop = max(0, ready - radius)
            held, above = held[drop:], ready - drop
    if held is not None:
        yield dilate(held, radius)[above:]
