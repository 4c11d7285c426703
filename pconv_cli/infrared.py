"""Finds dust and scratches in the infrared channel of a film scan, to which the dyes of colour film are clear as glass.

Knows: what dust looks like there, and that the channel may lie a few pixels beside the colours. Does not know: files,
formats, what is filled afterwards. It does not work on black-and-white film, whose silver is as dark in infrared as it
is to the eye, and hardly on Kodachrome, some of whose dyes are.

As in `detection`, everything is whole numbers and a bounded neighbourhood, so strips of a picture give what the whole
would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pconv_cli.detection import opencv
from pconv_cli.regions import Damage

Rows = Callable[[int, int], tuple[NDArray[np.uint8], NDArray[np.uint16]]]
"""Gives rows from the first up to, without, the last: colours `(rows, w, 3)` as bytes, and infrared `(rows, w)`."""

SHIFT = 8
"""Pixels, in each direction, that the infrared channel may lie beside the colours."""

REACH = 64
"""Rows above and below a strip that decide what is damaged in it."""

_AROUND = 101  # side of the square, pixels, that says how bright the channel is without dust
_SPECK = 19  # pixels: what is thinner shows in the colours, and tells where the channel lies
_STRIP = 1 << 22  # pixels of a strip
_ROWS_APART = 2  # of the rows that are compared: all of them would tell the same
_SURE = 1.05  # how much better another place must fit to be believed


@dataclass(frozen=True)
class Found:
    """What the channel shows.

    Attributes:
        damage: Where it is damaged, in the place of the colours.
        shift: Columns and rows that the channel was moved by to lie there.
    """

    damage: Damage
    shift: tuple[int, int]


def find(rows: Rows, size: tuple[int, int], sensitivity: float, *, strip: int | None = None) -> Found:
    """Find what is darker in infrared than its surroundings are on average.

    Args:
        rows: Gives what is asked for; strips come from top to bottom, and overlap by `REACH` on both sides.
        size: Height and width.
        sensitivity: From 0 to 1: a half takes what lets through a fifth less light than is usual around it.
        strip: Rows that are decided on together; the result is the same for any. None: what fits memory.

    Raises:
        UsageError: OpenCV is not there.
        ValueError: There are more places than can be held.
    """
    height, width = size
    strip = strip or max(256, _STRIP // width)
    fit = np.zeros((2 * SHIFT + 1, 2 * SHIFT + 1), np.int64)

    def holes() -> Iterator[NDArray[np.bool_]]:
        for top in range(0, height, strip):
            bottom = min(top + strip, height)
            first = max(0, top - REACH)
            colours, channel = rows(first, min(bottom + REACH, height))
            hole, depth = _dark(channel, sensitivity)
            inner = slice(top - first, bottom - first)
            _add_fit(fit, depth[inner], top, top - first, _outstanding(colours))
            yield hole[inner]

    found = Damage.of_strips(holes(), width)
    across, down = _best(fit)
    return Found(_moved(found, across, down), (across, down))


def _dark(channel: NDArray[np.uint16], sensitivity: float) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Where the channel is clearly darker than around, and by how many per cent there and close by: `(h, w)` each."""
    cv2 = opencv()
    # Sums of whole numbers below 2 ** 53 are exact.
    total = cv2.boxFilter(channel, cv2.CV_64F, (_AROUND, _AROUND), normalize=False, borderType=cv2.BORDER_REFLECT_101)
    here = channel.astype(np.float64) * (100 * _AROUND * _AROUND)
    hole = here < total * round(100 - (35 - 30 * sensitivity))
    close = cv2.dilate(hole.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    depth = np.where(close, np.maximum(100 - here // np.maximum(total, 1), 0), 0).astype(np.int64)
    return hole, depth


def _outstanding(colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """How far each pixel stands out from its surroundings, brighter or darker: `(h, w)`."""
    cv2 = opencv()
    grey = cv2.cvtColor(np.ascontiguousarray(colours), cv2.COLOR_RGB2GRAY)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (_SPECK, _SPECK))
    bright, dark = cv2.morphologyEx(grey, cv2.MORPH_TOPHAT, disc), cv2.morphologyEx(grey, cv2.MORPH_BLACKHAT, disc)
    return np.asarray(np.maximum(bright, dark))


def _add_fit(
    fit: NDArray[np.int64], depth: NDArray[np.int64], top: int, above: int, outstanding: NDArray[np.uint8]
) -> None:
    """Add up, for each place that the channel may have, how much stands out in the colours under its dark spots.

    Args:
        fit: What was added up so far; changed.
        depth: `(h, w)`, how dark they are; 0 elsewhere.
        top: Row of the picture that `depth` begins at; of two of them one is looked at.
        above: Rows of `outstanding` that are above it.
        outstanding: `(more than h, w)`.
    """
    first = -top % _ROWS_APART
    y, x = np.nonzero(depth[first::_ROWS_APART])
    weight = depth[first::_ROWS_APART][y, x]
    y = y * _ROWS_APART + first + above
    height, width = outstanding.shape
    for down in range(-SHIFT, SHIFT + 1):
        for across in range(-SHIFT, SHIFT + 1):
            inside = (y + down >= 0) & (y + down < height) & (x + across >= 0) & (x + across < width)
            there = outstanding[(y + down)[inside], (x + across)[inside]]
            fit[down + SHIFT, across + SHIFT] += int((there * weight[inside]).sum())


def _best(fit: NDArray[np.int64]) -> tuple[int, int]:
    """Columns and rows to move the channel by; none where that is as good as any."""
    down, across = np.unravel_index(int(fit.argmax()), fit.shape)
    if fit[down, across] <= _SURE * fit[SHIFT, SHIFT]:
        return 0, 0
    return int(across) - SHIFT, int(down) - SHIFT


def _moved(damage: Damage, across: int, down: int) -> Damage:
    rows = damage.rows + np.int32(down)
    starts = (damage.starts + np.int32(across)).clip(0, damage.width)
    stops = (damage.stops + np.int32(across)).clip(0, damage.width)
    inside = (rows >= 0) & (rows < damage.height) & (starts < stops)
    return Damage(damage.height, damage.width, rows[inside], starts[inside], stops[inside])
