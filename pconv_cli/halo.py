"""Masks that hug their damage: whether what was left around it has its colour, and would colour the fill.

Knows: pixels, and which of them a mask marks. Does not know: files, plans, networks. How often it is right, and what
growing a mask is worth: benchmarks/README.md.

Damage has soft edges: a mask of all that is seen of it leaves a rim of pixels that are partly damage. There the ring
of pixels next to the hole departs from what is farther off towards what is in the hole, and nearly all of that within
a pixel. Of clean surroundings a ring may depart as far, but not all along a mask, and not beside a hole that looks like
something else. It is asked cell by cell, for what is behind damage changes along it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

CELL = 16
"""Side of the squares in which rings are compared, pixels."""
FAR = 5
"""Pixels around a hole that are looked at: the third and those up to this one are what it should look like."""
STANDS_OUT, STEP = 3.0, 0.5
"""How far the hole, and the ring next to it, differ from there: in units of the spread that there is, plus `GRAIN`."""
GRAIN = 2 / 255
WITHIN = 0.6
"""The share of such a step that is gone a pixel farther out; what edges in pictures leave there is more."""
MOST = 0.15
"""The share of the ring beyond which a mask hugs its damage."""
PARTS = 16
"""Parts that tell of a picture, where there are more."""

Part = TypeVar("Part")


def sampled(parts: Sequence[Part]) -> Sequence[Part]:
    """As many parts of a picture as are worth looking at, from all over it."""
    return parts[:: -(-len(parts) // PARTS) or 1]


def hugs(parts: Iterable[tuple[NDArray[np.uint8 | np.float32 | np.float64], NDArray[np.bool_]]]) -> bool:
    """Tell whether a mask hugs its damage.

    Args:
        parts: Parts of a picture, each `(h, w, c)`, bytes or in [0, 1], what the mask marks included, and which pixels
            that is, `(h, w)`.
    """
    hugged = ring = 0.0
    for pixels, hole in parts:
        of_part = _around(pixels, hole)
        hugged, ring = hugged + of_part[0], ring + of_part[1]
    return hugged > MOST * ring


def _around(pixels: NDArray[np.uint8 | np.float32 | np.float64], hole: NDArray[np.bool_]) -> tuple[float, float]:
    """Pixels of the ring next to a hole: those in cells where it has the hole's colour, and all."""
    whole = pixels.shape[2] * (255 if pixels.dtype == np.uint8 else 1)
    wider = [hole]
    for _ in range(FAR):
        wider.append(_wider(wider[-1]))
    rings = hole & _wider(~hole), wider[1] & ~hole, wider[2] & ~wider[1], wider[FAR] & ~wider[2]
    across, down = (-(-side // CELL) for side in hole.shape[::-1])
    counts, means = np.zeros((4, across * down)), np.zeros((4, across * down))
    flat = pixels.reshape(-1, pixels.shape[2])
    with np.errstate(invalid="ignore", over="ignore"):  # what is not there is no colour: no cell with it tells
        for index, where in enumerate(rings):
            at = np.flatnonzero(where)
            rows, columns = np.divmod(at, hole.shape[1])
            cells = rows // CELL * across + columns // CELL
            tones = sum(flat[at, channel].astype(np.float64) for channel in range(flat.shape[1])) / whole
            counts[index] = np.bincount(cells, minlength=across * down)
            many = np.maximum(counts[index], 1)
            means[index] = np.bincount(cells, tones, across * down) / many
        squares = np.bincount(cells, (tones - means[3][cells]) ** 2, across * down) / many
        unit = np.sqrt(squares) + GRAIN  # of the last ring
        inside, first, beyond = (means[:3] - means[3]) / unit
        towards = np.sign(inside)
        first, fall = first * towards, (first - beyond) * towards
        hugged = (np.abs(inside) > STANDS_OUT) & (first > STEP) & (fall > WITHIN * first)
        hugged &= np.abs(inside) - first > fall
    told = (counts[1] >= 4) & (counts[3] >= 8)
    hugged &= (counts[0] > 0) & (counts[2] > 0)
    return float(counts[1][told & hugged].sum()), float(counts[1][told].sum())


def _wider(plane: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Grow by a pixel in every direction: `masks.dilate` is for any number of them, and slower."""
    tall: NDArray[np.bool_] = plane.copy()
    tall[1:] |= plane[:-1]
    tall[:-1] |= plane[1:]
    wide: NDArray[np.bool_] = tall.copy()
    wide[:, 1:] |= tall[:, :-1]
    wide[:, :-1] |= tall[:, 1:]
    return wide
