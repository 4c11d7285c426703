"""Operations on masks of damage.

Knows: planes of True (damaged) and False, whole or in strips. Does not know: files, polarity in files, pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from pconv_cli.orientations import displayed
from pconv_cli.regions import Damage, Window


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


def turned_strips(
    strips: Iterable[NDArray[np.bool_]], width: int, orientation: int, rows: int
) -> Iterator[NDArray[np.bool_]]:
    """Turn damage that comes in strips, as `orientations.displayed` would turn the whole; between them it is runs.

    Args:
        strips: `(rows, width)`, top to bottom, True = damaged.
        width: Columns of all of them.
        orientation: 1 to 8.
        rows: Of the strips that are made; where there is nothing to turn, they come as they are.

    Yields:
        The same damage turned, top to bottom.

    Raises:
        ValueError: As in `Damage.of_strips`.
    """
    if orientation == 1:
        yield from strips
        return
    damage = Damage.of_strips(strips, width)
    length = damage.width if orientation >= 5 else damage.height  # of what becomes rows
    backwards = orientation in (3, 4, 7, 8)
    for top in range(0, length, rows):
        count = min(rows, length - top)
        first = length - top - count if backwards else top
        columns, lines = Window(first, 0, count, damage.height), Window(0, first, damage.width, count)
        yield displayed(damage.window(columns if orientation >= 5 else lines), orientation)
