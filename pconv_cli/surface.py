"""A layer of a picture on disk, as a surface that is filled: `filling.Surface` for pictures of any size.

Knows how windows of a file become what the network sees, and how fills go back among bands that are not filled. Does
not know: plans' rounds, networks, how blocks are decoded or written (`canvas`), what pixels mean (`layers`).
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pconv_cli.canvas import Canvas
from pconv_cli.layers import Layer, Raw
from pconv_cli.regions import Window
from pconv_cli.tiff import Source
from pconv_cli.tiles import TilePlan


class LayerSurface:
    """A layer of a picture on disk.

    It is `veiled` if some of what is not damaged holds nothing either; what is laid gets full alpha if it `reveals`.
    """

    def __init__(self, canvas: Canvas, source: Source, layer: Layer, *, veiled: bool, reveals: bool) -> None:
        self._canvas, self._source, self._veiled, self._reveals = canvas, source, veiled, reveals
        self._layer = replace(layer, missing=None)
        self._measured = layer.measured if layer.missing is not None else None
        # Where a colour takes long to find, it is looked for in the hole alone.
        self._whole = layer.channels == tuple(range(source.bands)) and source.palette is None and not source.inks
        self._lock = threading.Lock()

    @property
    def height(self) -> int:
        """Rows."""
        return self._source.height

    @property
    def width(self) -> int:
        """Columns."""
        return self._source.width

    def read(self, window: Window) -> NDArray[Any]:
        """See `Surface`."""
        return self._layer.seen(self._canvas.read(window))

    def shown(self, window: Window) -> NDArray[np.bool_] | None:
        """See `Surface`."""
        if not self._veiled:
            return None
        # What has been laid counts as there, and nobody asks of that: what was read already is good enough.
        pixels = self._canvas.read(window)
        valid = self._source.valid(window, pixels)
        if isinstance(self._layer.space, Raw) and valid is not None:  # each band tells for itself
            valid |= self._source.is_nothing(pixels)
        return valid

    def lay(self, window: Window, pixels: NDArray[Any], where: NDArray[np.bool_]) -> None:
        """See `Surface`."""
        if self._whole:
            self._canvas.lay(window, self._layer.own(pixels), where)
            return
        with self._lock:  # windows lie over each other, and the other bands must come through
            whole = self._canvas.read(window)
            if self._reveals and self._layer.alpha is not None:  # colours go by it
                whole[where, self._layer.alpha] = self._source.opaque
            self._layer.put(whole, pixels, where)
            self._canvas.lay(window, whole, where)

    def settle(self, plan: TilePlan) -> None:
        """Put back what was measured, and hide what alpha hides, once all is filled: fills go by each other."""
        if self._measured is None and self._layer.alpha is None:
            return
        for window in plan.windows:
            where, pixels = plan.damage.window(window), self._canvas.read(window)
            if self._measured is not None:
                file = self._source.read(window)
                for channel in self._layer.channels:
                    here = where & self._measured(file[..., channel])
                    pixels[here, channel] = file[here, channel]
            self._layer.hide(pixels, where)
            self._canvas.lay(window, pixels, where)
