"""What a canvas holds in its scratch file: the picture where it has been looked at, decoded, and what was laid on it.

It knows windows, pages and bytes. It does not know GDAL, outputs, or what a fill means: the private part of `canvas`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from io import BufferedRandom
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pconv_cli import _gdal
from pconv_cli.regions import Window
from pconv_cli.tiff import Source

_PAGE = 256  # pixels along the sides of what is kept decoded, at least


class Pages:
    """The picture where it has been looked at, decoded once and kept in a file, with what was laid on top.

    A page is a block of the source, or a few of them: what is decoded to see a part of it is kept whole.
    """

    def __init__(self, stream: BufferedRandom, source: Source) -> None:
        self._stream, self._source = stream, source
        # Blocks as wide as a picture are cut: few of their columns may be wanted.
        self._down, self._across = (max(s, -(-_PAGE // s) * s) if s <= 4 * _PAGE else _PAGE for s in source.block)
        self._row = self._across * source.bands * source.dtype.itemsize
        self._slots: dict[tuple[int, int], int] = {}
        self._laid: set[tuple[int, int]] = set()
        self._lock = threading.Lock()

    def read(self, window: Window) -> NDArray[Any]:
        """Give a window, what was laid included."""
        self._source.refuse_beyond(window)
        pages = list(self._parts(window))
        self._fetch([key for key, _, _ in pages])
        pixels = np.empty((window.height, window.width, self._source.bands), self._source.dtype)
        for key, (rows, columns), here in pages:
            with self._lock:
                page = self._load(key, rows)
            pixels[here] = page[:, columns]
        return pixels

    def merged(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Give a window, what was laid included, and where that is, (h, w); keep nothing."""
        pages = list(self._parts(window))
        if all(key in self._slots for key, _, _ in pages):
            pixels = np.empty((window.height, window.width, self._source.bands), self._source.dtype)
        else:
            pixels = self._source.read(window)
        where = np.zeros((window.height, window.width), np.bool_)
        for key, (rows, columns), here in pages:
            if key in self._slots:
                with self._lock:
                    page, laid = self._load(key, rows), self._load_laid(key, rows)
                pixels[here], where[here] = page[:, columns], laid[:, columns]
        return pixels, where

    def lay(self, window: Window, pixels: NDArray[Any], where: NDArray[np.bool_]) -> None:
        """Lay pixels on top where `where` is True."""
        pages = [part for part in self._parts(window) if where[part[2]].any()]
        self._fetch([key for key, _, _ in pages])
        for key, (rows, columns), here in pages:
            wanted = where[here]
            with self._lock:
                page, laid = self._load(key, rows), self._load_laid(key, rows)
                page[:, columns][wanted] = pixels[here][wanted]
                laid[:, columns] |= wanted
                self._store(key, rows.start, page, laid)
                self._laid.add(key)

    def room(self, windows: Iterable[Window]) -> int:
        """Bytes that all pages take which some windows touch."""
        down, across, keys = self._down, self._across, set[tuple[int, int]]()
        for window in windows:
            columns = range(window.x // across, -(-window.right // across))
            keys.update((y, x) for y in range(window.y // down, -(-window.bottom // down)) for x in columns)
        return len(keys) * down * (self._row + across)

    def laid(self) -> list[Window]:
        """Pages in which anything was laid; the last ones may reach beyond the picture."""
        down, across = self._down, self._across
        return [Window(x * across, y * down, across, down) for y, x in sorted(self._laid)]

    def _fetch(self, keys: list[tuple[int, int]]) -> None:
        """Read the pages that are not there yet from the source: those of one row together."""
        for row, found in groupby((key for key in keys if key not in self._slots), itemgetter(0)):
            columns = [x for _, x in found]
            left, top = columns[0] * self._across, row * self._down
            right = min((columns[-1] + 1) * self._across, self._source.width)
            window = Window(left, top, right - left, min(self._down, self._source.height - top))
            pixels = self._source.read(window)
            for x in columns:
                part = pixels[:, x * self._across - left :][:, : self._across]
                page = np.zeros((window.height, self._across, self._source.bands), self._source.dtype)
                page[:, : part.shape[1]] = part
                with self._lock:
                    if (row, x) not in self._slots:  # nor has another thread been here meanwhile, and laid something
                        self._slots[row, x] = len(self._slots)
                        self._store((row, x), 0, page, np.zeros(page.shape[:2], np.bool_))

    def _load(self, key: tuple[int, int], rows: slice) -> NDArray[Any]:
        page = np.empty((rows.stop - rows.start, self._across, self._source.bands), self._source.dtype)
        self._read(self._start(key) + rows.start * self._row, page)
        return page

    def _load_laid(self, key: tuple[int, int], rows: slice) -> NDArray[np.bool_]:
        laid = np.empty((rows.stop - rows.start, self._across), np.bool_)
        self._read(self._start(key) + self._down * self._row + rows.start * self._across, laid)
        return laid

    def _read(self, at: int, values: NDArray[Any]) -> None:
        self._stream.seek(at)
        if self._stream.readinto(values.data.cast("B")) != values.nbytes:
            raise _gdal.lost()

    def _store(self, key: tuple[int, int], first: int, page: NDArray[Any], laid: NDArray[np.bool_]) -> None:
        start = self._start(key)
        for at, data in (
            (start + first * self._row, page),
            (start + self._down * self._row + first * self._across, laid),
        ):
            self._stream.seek(at)
            self._stream.write(data.data.cast("B"))
        self._stream.flush()

    def _start(self, key: tuple[int, int]) -> int:
        return self._slots[key] * self._down * (self._row + self._across)

    def _parts(self, window: Window) -> Iterator[tuple[tuple[int, int], tuple[slice, slice], tuple[slice, slice]]]:
        """Pages that a window touches, row by row: key, rows and columns in the page, and in the window."""
        down, across = self._down, self._across
        for y in range(window.y // down, -(-window.bottom // down)):
            for x in range(window.x // across, -(-window.right // across)):
                left, right = max(x * across, window.x), min((x + 1) * across, window.right)
                top, bottom = max(y * down, window.y), min((y + 1) * down, window.bottom)
                there = Window(left - x * across, top - y * down, right - left, bottom - top)
                here = Window(left - window.x, top - window.y, right - left, bottom - top)
                yield (y, x), there.slices, here.slices
