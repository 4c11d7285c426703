"""What is where in a picture, in integers: rectangles, and damage as runs of pixels.

Knows rows, columns and runs. Does not know what is computed, in which windows or why, nor files, tensors or networks.

A picture of 900 megapixels with a million specks is six million runs, 72 MB: what follows works on runs throughout, and
the mask never has to be in memory whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

MOST_RUNS = 8_000_000
"""More runs than this are refused: planning takes some hundred bytes for each."""

_CHUNK = 1 << 20  # runs that are looked at together; keeps what is temporary small
_STRIP = 1 << 24  # pixels of a strip that are turned into runs together


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


@dataclass(frozen=True, eq=False)
class Runs:
    """Some pixels of a picture, as runs: neighbours of one row. No pixel is in two runs.

    Attributes:
        height: Rows of the picture.
        width: Columns of the picture.
        rows: Shape (n,), int32: the row of each run, ascending.
        starts: Shape (n,), int32: its first column, ascending within a row.
        stops: Shape (n,), int32: the column beyond its last one.
    """

    height: int
    width: int
    rows: NDArray[np.int32]
    starts: NDArray[np.int32]
    stops: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def area(self) -> int:
        """Number of pixels in all runs."""
        return int(self.stops.sum(dtype=np.int64) - self.starts.sum(dtype=np.int64))

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom edge of all runs together, the last two exclusive. There must be a run."""
        return int(self.starts.min()), int(self.rows[0]), int(self.stops.max()), int(self.rows[-1]) + 1

    def window(self, window: Window) -> NDArray[np.bool_]:
        """The pixels of one window.

        Args:
            window: A rectangle inside the picture.

        Returns:
            Shape (height, width) of the window; True where a run is.
        """
        first, last = _between(self.rows, window.y, window.bottom)
        return self._painted(window, slice(first, last))

    def owned(self, window: Window, owners: NDArray[np.int32], owner: int) -> NDArray[np.bool_]:
        """The pixels of one window that belong to one owner.

        Args:
            window: A rectangle inside the picture.
            owners: Shape (n,): the owner of each run.
            owner: One of them.

        Returns:
            Shape (height, width) of the window; True where a run of the owner is.
        """
        first, last = _between(self.rows, window.y, window.bottom)
        return self._painted(window, first + np.flatnonzero(owners[first:last] == owner))

    def _painted(self, window: Window, which: slice | NDArray[np.intp]) -> NDArray[np.bool_]:
        """As `window`, looking at some runs only; all of them must be in the rows of the window."""
        rows, starts, stops = self.rows[which], self.starts[which], self.stops[which]
        seen = (starts < window.right) & (stops > window.x)
        rows, starts, stops = rows[seen] - window.y, starts[seen] - window.x, stops[seen] - window.x
        change = np.zeros((window.height, window.width + 1), np.int8)
        # No two runs of a row start at one column or stop at one, so nothing is lost by adding without `np.add.at`.
        change[rows, np.maximum(starts, 0)] += 1
        change[rows, np.minimum(stops, window.width)] -= 1
        return np.add.accumulate(change, axis=1)[:, :-1].astype(np.bool_)

    def take(self, which: slice | NDArray[np.bool_] | NDArray[np.intp]) -> Runs:
        """Some of the runs.

        Args:
            which: Flags, ascending indices or a slice.

        Returns:
            Those runs of the same picture.
        """
        return Runs(self.height, self.width, self.rows[which], self.starts[which], self.stops[which])

    def split(self, edges: tuple[int, ...]) -> tuple[Runs, NDArray[np.int32]]:
        """Split the runs where vertical lines pass through them.

        Args:
            edges: Columns, ascending; the first is at most the first pixel of all runs, the last beyond all of them.

        Returns:
            The runs, which may touch now, and for each the part it is in, shape (n,), int32, from 0.
        """
        lines = np.array(edges, np.int32)
        first = np.searchsorted(lines, self.starts, "right") - 1
        count = np.searchsorted(lines, self.stops, "left") - first
        if not len(count) or count.max() == 1:
            return self, first.astype(np.int32)
        which, part = _spread(first, count)
        starts, stops = np.maximum(self.starts[which], lines[part]), np.minimum(self.stops[which], lines[part + 1])
        return Runs(self.height, self.width, self.rows[which], starts, stops), part.astype(np.int32)

    def crossed_by_columns(self) -> NDArray[np.int64]:
        """What vertical lines would run through.

        Returns:
            Shape (w - 1,) for runs whose box is w wide: for each column edge inside the box, from the left, how many
            pixels have their left neighbour in the same run.
        """
        left, _, right, _ = self.box
        change = np.bincount(self.starts - left + 1, minlength=right - left + 1)
        change -= np.bincount(self.stops - left, minlength=right - left + 1)
        return np.cumsum(change)[1 : right - left]

    def crossed_by_rows(self) -> NDArray[np.int64]:
        """What horizontal lines would run through.

        Returns:
            Shape (h - 1,) for runs whose box is h high: for each row edge inside the box, from the top, how many
            pixels have a pixel of these runs right above.
        """
        _, top, _, bottom = self.box
        crossed = np.zeros(bottom - top, np.int64)
        for upper, lower in _meeting(self, self, down=1, reach=0):
            left = np.maximum(self.starts[upper], self.starts[lower])
            right = np.minimum(self.stops[upper], self.stops[lower])
            np.add.at(crossed, self.rows[lower] - top, right - left)
        return crossed[1:]

    def borders(self, owners: NDArray[np.int32]) -> NDArray[np.int32]:
        """Where pixels of different owners are neighbours in a row or a column.

        Args:
            owners: Shape (n,): the owner of each run.

        Returns:
            Shape (m, 4), int32: x0, y0, x1, y1 in pixel edges of straight borders, vertical (x0 == x1) or horizontal
            (y0 == y1), each as long as can be; the vertical ones first, then by place.
        """
        meets = (self.rows[1:] == self.rows[:-1]) & (self.starts[1:] == self.stops[:-1]) & (owners[1:] != owners[:-1])
        after = np.flatnonzero(meets) + 1
        x, y = self.starts[after], self.rows[after]
        x, y0, y1 = _joined(x, y, y + 1)
        upright = np.stack((x, y0, x, y1), axis=1)
        found = [(np.zeros(0, np.int32),) * 3]
        for upper, lower in _meeting(self, self, down=1, reach=0):
            apart = owners[upper] != owners[lower]
            upper, lower = upper[apart], lower[apart]
            left = np.maximum(self.starts[upper], self.starts[lower])
            found.append((self.rows[lower], left, np.minimum(self.stops[upper], self.stops[lower])))
        y, x0, x1 = _joined(*(np.concatenate(parts) for parts in zip(*found, strict=True)))
        return np.concatenate((upright, np.stack((x0, y, x1, y), axis=1)))


@dataclass(frozen=True, eq=False)
class Damage(Runs):
    """The damaged pixels of a picture, as runs (see `Runs`). Two runs of one row never touch.

    Attributes:
        plane: The same as an array, where one is held anyway: windows are copied from it then, and not painted.
    """

    plane: NDArray[np.bool_] | None = None

    @classmethod
    def of(cls, plane: NDArray[np.bool_], *, held: bool = False) -> Damage:
        """Turn a mask into runs.

        Args:
            plane: Shape (height, width); True where the picture is damaged.
            held: Whether to hold on to `plane`, which must not change any more then.

        Returns:
            The same pixels as runs.

        Raises:
            ValueError: `plane` is not two-dimensional or has no pixel, or there are more than `MOST_RUNS` runs.
        """
        if plane.ndim != 2 or plane.size == 0:
            raise ValueError(f"damage must have the shape (height, width) and a pixel at least, got {plane.shape}")
        damage = cls.of_strips((plane,), plane.shape[1])
        return replace(damage, plane=plane) if held else damage

    def window(self, window: Window) -> NDArray[np.bool_]:
        """The pixels of one window, see `Runs.window`; the array is the caller's own."""
        return super().window(window) if self.plane is None else self.plane[window.slices].copy()

    @classmethod
    def of_strips(cls, strips: Iterable[NDArray[np.bool_]], width: int) -> Damage:
        """Turn a mask into runs that comes in strips, so that it never has to be in memory whole.

        Args:
            strips: From top to bottom, each of the shape (some rows, width); True where the picture is damaged.
            width: Columns of the picture.

        Returns:
            The damage of all strips together; their rows add up to its height.

        Raises:
            ValueError: A strip has another shape, there is no pixel, or there are more than `MOST_RUNS` runs.
        """
        height, count = 0, 0
        found: list[tuple[NDArray[np.int32], ...]] = [(np.zeros(0, np.int32),) * 3]
        for strip in strips:
            if strip.ndim != 2 or strip.shape[1] != width:
                raise ValueError(f"a strip must have the shape (height, width) with width {width}, got {strip.shape}")
            step = max(1, _STRIP // max(width, 1))
            for top in range(0, len(strip), step):
                rows, starts, stops = _runs_of(strip[top : top + step])
                found.append((rows + np.int32(height + top), starts, stops))
                count += len(rows)
                if count > MOST_RUNS:
                    raise ValueError(f"the mask has more than {MOST_RUNS} runs of damaged pixels, too many to plan")
            height += len(strip)
        if height < 1 or width < 1:
            raise ValueError(f"damage must have the shape (height, width) and a pixel at least, got {(height, width)}")
        return cls(height, width, *(np.concatenate(parts) for parts in zip(*found, strict=True)))

    def components(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Find what hangs together, corners included.

        Returns:
            For each run the component that it belongs to, shape (n,), int32; components are numbered from 0 by their
            first run. And for each component its box, shape (m, 4), int32: x0, y0, x1, y1, the last two exclusive.
        """
        parent = np.arange(len(self), dtype=np.int32)
        pairs = [(np.zeros(0, np.int32),) * 2]
        pairs += [(a.astype(np.int32), b.astype(np.int32)) for a, b in _meeting(self, self, down=1, reach=1)]
        one, other = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
        del pairs
        while len(one):
            # Each root hooks to the least root it meets, so at least every second round halves their number.
            np.minimum.at(parent, np.maximum(one, other), np.minimum(one, other))
            while (parent != (above := parent[parent])).any():
                parent = above
            one, other = parent[one], parent[other]
            apart = one != other
            one, other = one[apart], other[apart]
        first = np.flatnonzero(parent == np.arange(len(self), dtype=np.int32))
        number = np.zeros(len(self), np.int32)
        number[first] = np.arange(len(first), dtype=np.int32)
        labels = number[parent]
        boxes = np.stack((self.starts[first], self.rows[first], self.stops[first], self.rows[first] + 1), axis=1)
        np.minimum.at(boxes[:, 0], labels, self.starts)
        np.maximum.at(boxes[:, 2], labels, self.stops)
        np.maximum.at(boxes[:, 3], labels, self.rows + 1)
        return labels, boxes

    @property
    def area_at_border(self) -> int:
        """Number of pixels in all components that touch the picture's border."""
        labels, boxes = self.components()
        at_border = (boxes[:, :2] == 0).any(axis=1) | (boxes[:, 2:] == (self.width, self.height)).any(axis=1)
        mine = at_border[labels]
        return int((self.stops[mine].astype(np.int64) - self.starts[mine]).sum())

    def deep(self, cell: int = 8) -> bool:
        """Whether damage is so deep that a reduced copy of the picture would have holes too.

        Args:
            cell: Side of the cells of an aligned grid, at least 1; at the right and bottom edge they are clipped.

        Returns:
            Whether some cell is damaged entirely.

        Raises:
            ValueError: `cell` is below 1.
        """
        if cell < 1:
            raise ValueError(f"cell must be at least 1, got {cell}")
        across, down = -(-self.width // cell), -(-self.height // cell)
        first = -(-self.starts // cell)
        last = np.where(self.stops == self.width, across, self.stops // cell)
        whole = np.flatnonzero(first < last)  # the runs that fill a row of a cell, or of several
        rows, first, last = self.rows[whole] // cell, first[whole], last[whole]
        step = max(1, (1 << 19) // (across + 1))  # a deep hole is often found early, and this much stays in a cache
        for top in range(0, down, step):
            part = slice(*_between(rows, top, top + step))
            full = np.zeros((min(step, down - top), across + 1), np.int32)
            np.add.at(full, (rows[part] - top, first[part]), 1)
            np.subtract.at(full, (rows[part] - top, last[part]), 1)
            here = np.minimum(cell, self.height - (top + np.arange(len(full))) * cell)
            if (np.add.accumulate(full, axis=1)[:, :-1] == here[:, None]).any():
                return True
        return False

    def within(self, boxes: NDArray[np.int32]) -> Damage:
        """The damage inside rectangles.

        Args:
            boxes: Shape (n, 4), int32: x0, y0, x1, y1, the last two exclusive; they may overlap and leave the picture.

        Returns:
            The pixels of the damage that lie in at least one of them, for the same picture.
        """
        low, high = np.zeros(4, np.int32), np.array([self.width, self.height] * 2, np.int32)
        x0, y0, x1, y1 = np.clip(boxes, low, high).T
        which, rows = _spread(y0, y1 - y0)
        bands = Runs(self.height, self.width, *_joined(rows.astype(np.int32), x0[which], x1[which]))
        found = [(np.zeros(0, np.int32),) * 3]
        for band, run in _meeting(bands, self, down=0, reach=0):
            left = np.maximum(bands.starts[band], self.starts[run])
            found.append((self.rows[run], left, np.minimum(bands.stops[band], self.stops[run])))
        return Damage(self.height, self.width, *(np.concatenate(parts) for parts in zip(*found, strict=True)))

    def held_by(
        self, tops: NDArray[np.int32], bottoms: NDArray[np.int32], lefts: NDArray[np.int32], rights: NDArray[np.int32]
    ) -> NDArray[np.bool_]:
        """Which rectangles of a grid hold damage. The grid's rows may overlap, and so may its columns.

        Args:
            tops: Shape (r,), int32, ascending: first row of each row of the grid.
            bottoms: Shape (r,), int32, ascending: the row beyond.
            lefts: Shape (c,), int32, ascending: first column of each column of the grid.
            rights: Shape (c,), int32, ascending: the column beyond.

        Returns:
            Shape (r, c): True where the rectangle holds a damaged pixel.
        """
        count = np.zeros((len(tops) + 1, len(lefts) + 1), np.int64)
        for at in range(0, len(self), _CHUNK):
            rows, starts, stops = (part[at : at + _CHUNK] for part in (self.rows, self.starts, self.stops))
            top, bottom = np.searchsorted(bottoms, rows, "right"), np.searchsorted(tops, rows, "right")
            left, right = np.searchsorted(rights, starts, "right"), np.searchsorted(lefts, stops, "left")
            for y, x, sign in ((top, left, 1), (top, right, -1), (bottom, left, -1), (bottom, right, 1)):
                np.add.at(count, (y, x), sign)
        return count.cumsum(axis=0).cumsum(axis=1)[:-1, :-1] > 0


def _runs_of(plane: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Rows, starts and stops of the runs of a mask."""
    height, width = plane.shape
    # A blank column after each row keeps the runs of two rows apart; a blank pixel before all lets the first one start.
    flat = np.zeros(1 + height * (width + 1), np.bool_)
    flat[1:].reshape(height, width + 1)[:, :width] = plane
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    rows = edges[::2] // (width + 1)
    base = rows * (width + 1)
    return rows.astype(np.int32), (edges[::2] - base).astype(np.int32), (edges[1::2] - base).astype(np.int32)


def _between(ascending: NDArray[np.int32], low: int, high: int) -> tuple[int, int]:
    """Which entries are at least `low` and below `high`, as a range of indices."""
    # The limits must be of the array's own type: otherwise numpy converts the array, all of it.
    first, last = np.searchsorted(ascending, np.array([low, high], ascending.dtype))
    return int(first), int(last)


def _spread(first: NDArray[np.integer], count: NDArray[np.integer]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Write out ranges: for each i the numbers from first[i] on, count[i] of them. Returns all i and all numbers."""
    count = count.astype(np.intp)
    which = np.repeat(np.arange(len(count)), count)
    before = np.cumsum(count) - count
    return which, np.arange(len(which)) + (first - before)[which]


def _meeting(above: Runs, below: Runs, *, down: int, reach: int) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Pairs of a run of `above` and one of `below` that lies `down` rows under it and has a column in common.

    Reach 1 counts corners too. Yields indices of both, some pairs at a time, in the order of `above`, then of `below`.
    """
    stride = above.width + 2
    for at in range(0, len(above), _CHUNK):
        rows = above.rows[at : at + _CHUNK] + np.int32(down)
        low, high = _between(below.rows, int(rows[0]), int(rows[-1]) + 1)
        # One number for row and column, so that one search finds both; rows count from the first, to keep it small.
        base = (below.rows[low:high] - rows[0]).astype(np.int64) * stride
        wanted = (rows - rows[0]).astype(np.int64) * stride
        starts, stops = above.starts[at : at + _CHUNK], above.stops[at : at + _CHUNK]
        first = np.searchsorted(base + below.stops[low:high], wanted + starts, "left" if reach else "right")
        last = np.searchsorted(base + below.starts[low:high], wanted + stops, "right" if reach else "left")
        which, other = _spread(first, last - first)
        yield which + at, other + low


def _joined(
    lines: NDArray[np.int32], starts: NDArray[np.int32], stops: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Join ranges of one line that overlap or touch; empty ones are dropped. Returns them by line, then by start."""
    some = starts < stops
    lines, starts, stops = lines[some], starts[some], stops[some]
    if not len(lines):
        return lines, starts, stops
    order = np.lexsort((starts, lines))
    lines, starts, stops = lines[order], starts[order], stops[order]
    # How far the ranges reach so far, line by line: what lies on a later line reaches further than all before it.
    span = np.int64(stops.max()) - starts.min() + 2
    place = lines.astype(np.int64) * span
    reach = np.maximum.accumulate(place + (stops - starts.min()))
    new = np.ones(len(lines), np.bool_)
    new[1:] = place[1:] + (starts[1:] - starts.min()) > reach[:-1]
    first = np.flatnonzero(new)
    return lines[first], starts[first], np.maximum.reduceat(stops, first)
