"""Steps across cuts: how visible they are, and how to level them.

Knows: a strip of pixels with a cut down its middle, and which of its pixels were filled. Does not know: plans, files,
networks. Strips of horizontal cuts come transposed.

Both sides of a cut are filled from different surroundings and so differ in tone as well as in detail. Levelling takes
the difference in tone away, so that healing (see `filling`) only has detail to join. Measured in benchmarks/README.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

REACH = 32
"""Pixels on each side over which a step is levelled out."""
SMOOTH = 5
"""Pixels along a cut over which its step is averaged: tone is levelled, the grain of single pixels is not."""
BESIDE = range(6, 15)
"""Distances at which the steps beside a cut are taken for comparison, pixels."""
STEPS = 16 * 3 * 255
"""Steps are counted in classes of 1 / STEPS of the range: finer than a mean over three 8-bit channels can be."""


def level(pixels: NDArray[np.float32], hole: NDArray[np.bool_], cut: int) -> NDArray[np.float32]:
    """Level the step across a cut: half of it is taken from each side, less and less up to the hole's edge.

    Args:
        pixels: `(n, w, c)`, range [0, 1]; the cut runs down between columns `cut - 1` and `cut`.
        hole: `(n, w)`, True where filled; no other pixel changes.
        cut: From 1 to `w - 1`.

    Returns:
        `(n, w, c)`.
    """
    both = hole[:, cut - 1] & hole[:, cut]
    step = np.where(both[:, None], pixels[:, cut] - pixels[:, cut - 1], 0)
    step = _running_mean(step, both)
    out: NDArray[np.float32] = pixels.copy()
    for side, half in ((slice(cut - 1, None, -1), 0.5), (slice(cut, None), -0.5)):
        filled = np.logical_and.accumulate(hole[:, side][:, :REACH], axis=1) & both[:, None]
        length = np.maximum(filled.sum(axis=1, keepdims=True), 1)
        weight = np.where(filled, 1 - (np.arange(filled.shape[1]) + 0.5) / length, 0).astype(np.float32)
        out[:, side][:, :REACH] += half * weight[..., None] * step[:, None]
    return out


def _running_mean(step: NDArray[np.float32], counted: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Average along the cut over what is counted."""

    def summed(values: NDArray[Any]) -> NDArray[Any]:
        return np.convolve(values, np.ones(SMOOTH))[SMOOTH // 2 :][: len(values)]

    number = np.maximum(summed(counted), 1)
    columns = [summed(step[:, channel]) / number for channel in range(step.shape[1])]
    return np.where(counted[:, None], np.stack(columns, axis=1), 0).astype(np.float32)


class SeamMeter:
    """The seam ratio: the step across cuts over the step between neighbours 6 to 14 px beside them, in the same holes.

    1 means that a cut cannot be told from any other line through the hole. Memory does not grow with what is added.
    """

    def __init__(self) -> None:
        self._across = np.zeros(STEPS + 1, np.int64)
        self._beside = np.zeros(STEPS + 1, np.int64)

    def add(self, pixels: NDArray[Any], hole: NDArray[np.bool_], cut: int) -> None:
        """Count the steps of one strip.

        Args:
            pixels: `(n, w, c)`, uint8, or float in [0, 1]; the cut as in `level`.
            hole: `(n, w)`, True where filled.
            cut: From 1 to `w - 1`.
        """
        scale = 255 if pixels.dtype == np.uint8 else 1
        steps = np.abs(np.diff(pixels.astype(np.float32) / scale, axis=1)).mean(axis=2)  # step i: columns i and i + 1
        inside = hole[:, 1:] & hole[:, :-1]
        at = cut - 1
        rows = inside[:, at]
        self._across += _counted(steps[rows, at])
        for distance in BESIDE:
            for line in (at - distance, at + distance):
                if 0 <= line < steps.shape[1]:
                    self._beside += _counted(steps[rows & inside[:, line], line])

    def merge(self, other: SeamMeter) -> None:
        """Count what another meter has counted as well."""
        self._across += other._across
        self._beside += other._beside

    def ratio(self) -> float | None:
        """Mean step across over mean step beside; None where there is nothing to compare."""
        return _over(_mean(self._across), _mean(self._beside))

    def median_ratio(self) -> float | None:
        """Median step across over median step beside; None where there is nothing to compare."""
        return _over(_median(self._across), _median(self._beside))


def _counted(steps: NDArray[np.float32]) -> NDArray[np.int64]:
    classes = np.minimum((steps * STEPS).round(), STEPS).astype(np.int64)
    return np.bincount(classes, minlength=STEPS + 1)


def _mean(counts: NDArray[np.int64]) -> float | None:
    total = counts.sum()
    return None if not total else float((counts * np.arange(len(counts))).sum() / total)


def _median(counts: NDArray[np.int64]) -> float | None:
    total = counts.sum()
    return None if not total else float(np.searchsorted(np.cumsum(counts), (total + 1) // 2))


def _over(across: float | None, beside: float | None) -> float | None:
    return None if across is None or not beside else across / beside
