"""Draws a tile plan over a small view of the picture.

Knows: plans and arrays of pixels. Does not know: files, networks, the terminal.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from pconv_cli.regions import Damage
from pconv_cli.tiles import TilePlan

DAMAGE = (230, 30, 60)
WINDOW = (60, 220, 90)
HEALED = (70, 170, 255)
CUT = (255, 225, 40)
CROSSING = (255, 60, 255)
CROSSING_SIDE = 3  # pixels around the middle of a cut that mark the crossing


def sketch(view: NDArray[np.uint8], plan: TilePlan) -> NDArray[np.uint8]:
    """Draw a plan.

    Damage is red, windows have green borders, windows that heal blue ones; cuts are yellow, and each place where one
    crosses a hole is marked in magenta.

    Args:
        view: `(h, w, 3)`, the whole picture, made smaller.
        plan: What to draw.

    Returns:
        `(h, w, 3)`, another array.
    """
    scale = np.array([view.shape[1] / plan.width, view.shape[0] / plan.height])
    out = (view // 2 + 40).astype(np.uint8)  # pale, so that the colours stand out
    out[reduced(plan.damage, view.shape[0], view.shape[1])] = DAMAGE
    for colour, windows in ((HEALED, [w for heal in plan.heals for w in heal.windows]), (WINDOW, plan.windows)):
        boxes = ((w.x, w.y, w.right, w.bottom) for w in windows)
        _outline(out, boxes, scale, colour)
    middles = []
    for x0, y0, x1, y1 in plan.cuts.tolist():
        left, top, right, bottom = _scaled((x0, y0, x1, y1), scale, out.shape)
        out[top : bottom + 1, left : right + 1] = CUT
        middles.append(((top + bottom) // 2, (left + right) // 2))
    for y, x in middles:
        rows, columns = (slice(max(0, at - CROSSING_SIDE), at + CROSSING_SIDE + 1) for at in (y, x))
        out[rows, columns] = CROSSING
    return out


def reduced(damage: Damage, height: int, width: int) -> NDArray[np.bool_]:
    """Where a small view, `(height, width)`, is to show damage: wherever there is any."""
    edges = np.zeros((height, width + 1), np.int32)
    rows = damage.rows.astype(np.int64) * height // damage.height
    starts = damage.starts.astype(np.int64) * width // damage.width
    stops = (damage.stops.astype(np.int64) * width - 1) // damage.width + 1
    np.add.at(edges, (rows, starts), 1)
    np.add.at(edges, (rows, np.minimum(stops, width)), -1)
    return np.asarray(np.cumsum(edges, axis=1)[:, :width] > 0)


def _outline(
    out: NDArray[np.uint8],
    boxes: Iterable[tuple[int, int, int, int]],
    scale: NDArray[np.float64],
    colour: tuple[int, int, int],
) -> None:
    for box in boxes:
        left, top, right, bottom = _scaled(box, scale, out.shape)
        out[top, left : right + 1] = out[bottom, left : right + 1] = colour
        out[top : bottom + 1, left] = out[top : bottom + 1, right] = colour


def _scaled(
    box: tuple[int, int, int, int], scale: NDArray[np.float64], shape: tuple[int, ...]
) -> tuple[int, int, int, int]:
    """The view's pixels under a box whose ends are exclusive."""
    left, top = (np.array(box[:2]) * scale).astype(int)
    right, bottom = (np.array(box[2:]) * scale).astype(int)
    limit_x, limit_y = shape[1] - 1, shape[0] - 1
    return min(int(left), limit_x), min(int(top), limit_y), min(int(right), limit_x), min(int(bottom), limit_y)
