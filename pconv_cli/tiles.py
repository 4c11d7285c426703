"""Which rectangles of a picture are computed, and in what shape.

Knows integers and one array of damage. Does not know files, tensors, devices or networks.

The promise that every way of planning keeps: each damaged pixel lies in exactly one window.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, order=True)
class Window:
    """A rectangle of a picture, in pixels.

    Attributes:
        x: Left edge.
        y: Top edge.
        width: Number of columns.
        height: Number of rows.
    """

    x: int
    y: int
    width: int
    height: int

    @property
    def right(self) -> int:
        """First column beyond the window."""
        return self.x + self.width

    @property
    def bottom(self) -> int:
        """First row beyond the window."""
        return self.y + self.height

    @property
    def area(self) -> int:
        """Number of pixels."""
        return self.width * self.height

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns, to index an array of shape (height, width, ...)."""
        return slice(self.y, self.bottom), slice(self.x, self.right)


@dataclass(frozen=True)
class TilePlan:
    """What is computed of one picture.

    Attributes:
        size: Longest side that a window may have.
        height: Rows of the picture.
        width: Columns of the picture.
        windows: Windows that hold damage, row by row; no two of them overlap.
        total: How many windows there would be if nothing were left out.
    """

    size: int
    height: int
    width: int
    windows: tuple[Window, ...]
    total: int

    @property
    def pixels_to_compute(self) -> int:
        """Pixels in all windows together, before they are filled up to a shared shape."""
        return sum(window.area for window in self.windows)


def balanced(length: int, size: int) -> tuple[int, ...]:
    """Cut a side into as few parts as the size allows, as equal as integers can be.

    Args:
        length: Pixels to cut, at least 1.
        size: Longest part allowed, at least 1.

    Returns:
        Cut positions, from 0 to `length`. Parts differ by at most 1, the longer ones first.

    Raises:
        ValueError: An argument is below 1.
    """
    if length < 1 or size < 1:
        raise ValueError(f"length and size must be at least 1, got {length} and {size}")
    parts = -(-length // size)
    shortest, longer = divmod(length, parts)
    return tuple(part * shortest + min(part, longer) for part in range(parts + 1))


def cuts(crossed: NDArray[np.integer], size: int) -> tuple[int, ...]:
    """Cut a side into as few parts as the size allows, where the cuts cross the least damage.

    Seams can only appear where a cut runs through damage; a folded map is damaged just where a balanced cut would lie.

    Args:
        crossed: For each position 1, 2, ... of the side, the damaged pixels that a cut there would run through; one
            entry less than the side has pixels.
        size: Longest part allowed, at least 1.

    Returns:
        Cut positions, from 0 to the side's length. No part is below half of the shortest balanced one; of equally good
        cuts the one nearest to balance is taken, so without damage the result is `balanced`.

    Raises:
        ValueError: `size` is below 1.
    """
    length = len(crossed) + 1
    even = balanced(length, size)
    shortest = min(after - before for before, after in pairwise(even)) // 2
    # Stage by stage, the cheapest way to each position that a cut may take; being off balance breaks ties only.
    weight = 1 + len(even) * length
    places, costs, origins = np.zeros(1, np.int64), np.zeros(1, np.int64), []
    for i, middle in enumerate(even[1:-1], start=1):
        left = len(even) - 1 - i
        low, high = max(i * shortest, 1, length - left * size), min(i * size, length - max(left * shortest, 1))
        here = np.arange(low, high + 1)
        step = here[:, None] - places[None, :]
        allowed = (step <= size) & (step >= max(shortest, 1))
        total = np.where(allowed, costs[None, :], np.iinfo(np.int64).max // 2)
        origins.append((places, total.argmin(axis=1)))
        costs = total.min(axis=1) + crossed[here - 1].astype(np.int64) * weight + np.abs(here - middle)
        places = here
    return _trace(length, size, shortest, places, costs, origins)


def _trace(
    length: int,
    size: int,
    shortest: int,
    places: NDArray[np.int64],
    costs: NDArray[np.int64],
    origins: list[tuple[NDArray[np.int64], NDArray[np.int64]]],
) -> tuple[int, ...]:
    """Follow the cheapest way back from the end of the side."""
    if not origins:
        return (0, length)
    last = length - places
    best = int(np.where((last <= size) & (last >= max(shortest, 1)), costs, np.iinfo(np.int64).max).argmin())
    found = [length, int(places[best])]
    for before, origin in reversed(origins):
        best = int(origin[best])
        found.append(int(before[best]))
    return tuple(reversed(found))


def grid(height: int, width: int, size: int) -> tuple[Window, ...]:
    """Cut a picture into windows without overlap, as equal as can be.

    Args:
        height: Rows, at least 1.
        width: Columns, at least 1.
        size: Longest side of a window, at least 1.

    Returns:
        Windows that cover each pixel once, row by row.

    Raises:
        ValueError: An argument is below 1.
    """
    return _between(balanced(height, size), balanced(width, size))


def _between(rows: tuple[int, ...], columns: tuple[int, ...]) -> tuple[Window, ...]:
    return tuple(
        Window(left, top, right - left, bottom - top)
        for top, bottom in pairwise(rows)
        for left, right in pairwise(columns)
    )


def plan_tiles(damage: NDArray[np.bool_], size: int) -> TilePlan:
    """Choose the windows that must be computed.

    Args:
        damage: Shape (height, width); True where the picture is damaged.
        size: Longest side of a window, at least 1.

    Returns:
        A plan: each damaged pixel lies in exactly one of its windows. Without damage it has none.

    Raises:
        ValueError: `damage` is not two-dimensional or has no pixel, or `size` is below 1.
    """
    if damage.ndim != 2 or damage.size == 0:
        raise ValueError(f"damage must have the shape (height, width) and a pixel at least, got {damage.shape}")
    height, width = damage.shape
    across = (damage[1:] & damage[:-1]).sum(axis=1)
    down = (damage[:, 1:] & damage[:, :-1]).sum(axis=0)
    windows = _between(cuts(across, size), cuts(down, size))
    active = tuple(window for window in windows if damage[window.slices].any())
    return TilePlan(size=size, height=height, width=width, windows=active, total=len(windows))


def canvas(width: int, height: int, size: int, step: int = 32) -> tuple[int, int]:
    """The shape that a window is filled up to, so that windows of different pictures can share a batch.

    It depends on the window alone, never on what else is in the batch: a result must not depend on its company.

    Args:
        width: Columns of the window, at least 1.
        height: Rows of the window, at least 1.
        size: Longest side that windows are planned with, at least 1; a side is not filled up beyond it.
        step: Sides are rounded up to a multiple of it, at least 1.

    Returns:
        Width and height, neither below the window's own.

    Raises:
        ValueError: An argument is below 1.
    """
    if min(width, height, size, step) < 1:
        raise ValueError(f"all arguments must be at least 1, got {width}, {height}, {size} and {step}")

    def filled(side: int) -> int:
        return max(side, min(-(-side // step) * step, size))

    return filled(width), filled(height)
